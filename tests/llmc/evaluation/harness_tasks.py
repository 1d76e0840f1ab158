"""Small tasks for lm-evaluation-harness, with data of their own."""

import json
import random
from pathlib import Path

_WORDS = ("the", "function", "returns", "a", "list", "of", "when", "server", "starts", "it", "reads", "river", "town")
_TASKS = {
    "own_choice": """
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
    "own_letters": """
output_type: multiple_choice
doc_to_text: "{{q}} Answer:"
doc_to_choice: ["A", "B", "C"]
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "own_rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{q}}"
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
""",
    "own_texts": """
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: "{{q}}"
generation_kwargs: {until: ["\\n", " the"], max_gen_toks: 24, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
}  # fmt: skip
NAMES = list(_TASKS)


def write_tasks(folder: Path) -> Path:
    """Write the tasks and their data into a folder; one text is longer than the context of the example models."""
    draw = random.Random(0)

    def text(count: int) -> str:
        return " ".join(draw.choice(_WORDS) for _ in range(count))

    lengths = {
        "own_choice": [4, 9, 30, 60],
        "own_letters": [5, 12],
        "own_rolling": [3, 40, 600],
        "own_texts": [4, 9, 35],
    }
    for name, form in _TASKS.items():
        rows = [
            {"q": text(count), "choices": [text(1 + place) for place in range(3)], "answer": number % 3}
            for number, count in enumerate(lengths[name])
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = f"dataset_kwargs: {{data_files: {{test: {folder / name}.jsonl}}}}\ntest_split: test\n"
        (folder / f"{name}.yaml").write_text(f"task: {name}\ndataset_path: json\n{data}{form}")
    return folder
