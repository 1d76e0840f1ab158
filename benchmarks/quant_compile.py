"""What GPTQ and AWQ cost, beside other tools: `python -m benchmarks.quant_compile --env llmcompressor=PYTHON ...`.

Makes a GPT-NeoX checkpoint of random weights in float16 (the shape of Pythia-1.4B, but of few layers and with a small
vocabulary) and random windows of tokens, and gives them to each tool in a process of its own: llmc, and those of which
`--env` names the interpreter of an environment. Prints seconds from the start of the process to the saved result, those
of quantizing alone, the processor time, and the most memory in use (VmHWM), with ratios to llmc's.

Layers cost the same one after the other, so with `--layers 1 2` the difference is what a layer costs, and `a layer` and
`24 layers` are printed: what is left is the start of the process and the embeddings.

The environments: `python -m venv ENV; ENV/bin/pip install torch llmcompressor`, and `gptqmodel` likewise.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.quant_tools.process import Outcome, environment, start
from benchmarks.quant_tools.recipes import RECIPES, Run

RECIPE_NAMES = ("gptq4-order", "gptq4", "awq4")
TOKENIZER = Path(__file__).parents[1] / "examples" / "models" / "gptneox-tiny" / "tokenizer.json"
HEADER = ("recipe", "layers", "tool", "seconds", "quantize", "CPU", "memory", "time / llmc", "memory / llmc", "note")
DEPTH = 24
"""Layers of the model that costs are scaled to: Pythia-1.4B."""


def write_checkpoint(folder: Path, layers: int, hidden: int, vocabulary: int) -> Path:
    """Write a GPT-NeoX checkpoint of random weights, float16."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 128,
        intermediate_size=4 * hidden,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPTNeoXForCausalLM(config).half().save_pretrained(folder)
    shutil.copy(TOKENIZER, folder)
    return folder


def write_windows(path: Path, samples: int, length: int, vocabulary: int) -> Path:
    """Write random token ids, a window a line."""
    rows = torch.randint(vocabulary, (samples, length), generator=torch.Generator().manual_seed(1)).tolist()
    path.write_text("".join(json.dumps({"token_ids": row}) + "\n" for row in rows))
    return path


def runs_of(recipe: str, tools: Mapping[str, str]) -> list[Run]:
    """The first way of each tool to follow a recipe."""
    found: dict[str, Run] = {}
    for run in RECIPES[recipe]:
        if run.tool in tools:
            found.setdefault(run.tool, run)
    return list(found.values())


def row(recipe: str, layers: int, outcome: Outcome, ours: Outcome | None) -> tuple[str, ...]:
    """A row of the table."""
    name = f"{outcome.run.tool} {outcome.version}".strip()
    if outcome.error:
        return (recipe, str(layers), name, *"–" * 6, outcome.error)
    ratios = ["–", "–"]
    if ours is not None and not ours.error:
        ratios = [f"{outcome.seconds / ours.seconds:.2f}", f"{outcome.peak_bytes / ours.peak_bytes:.2f}"]
    return (
        recipe,
        str(layers),
        name,
        f"{outcome.seconds:.1f} s",
        f"{outcome.stages.get('quantize', 0):.1f} s",
        f"{outcome.cpu_seconds:.1f} s",
        f"{outcome.peak_bytes / 2**20:.0f} MiB",
        *ratios,
        outcome.run.note,
    )


def scaled(found: Mapping[int, Outcome]) -> str:
    """What a layer costs and what 24 would, from runs of several depths; empty if there are not two that worked."""
    good = {layers: outcome for layers, outcome in sorted(found.items()) if not outcome.error}
    if len(good) < 2:
        return ""
    (few, first), *_, (many, last) = good.items()
    seconds = (last.seconds - first.seconds) / (many - few)
    memory = (last.peak_bytes - first.peak_bytes) / (many - few)
    whole = first.seconds + seconds * (DEPTH - few)
    return (
        f"{first.run.tool}: a layer takes {seconds:.1f} s and {memory / 2**20:.0f} MiB; "
        f"{DEPTH} layers {whole:.0f} s and {(first.peak_bytes + memory * (DEPTH - few)) / 2**20:.0f} MiB"
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", action="append", type=environment, default=[], help="TOOL=PYTHON")
    parser.add_argument("--recipe", action="append", choices=RECIPE_NAMES)
    parser.add_argument("--layers", type=int, nargs="+", default=[2])
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--samples", type=int, default=32, help="calibration windows")
    parser.add_argument("--length", type=int, default=512, help="tokens of a window")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", help="what other tools load the checkpoint in; auto for its own")
    parser.add_argument("--limit", type=float, default=1800, help="seconds that a run may take")
    parser.add_argument("--folder", type=Path, help="where checkpoints and results go, and are found again")
    parser.add_argument("--json", type=Path, help="a file for the results")
    options = parser.parse_args()
    options.env = {"llmc": sys.executable, **dict(options.env)}
    return options


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Run everything, printing rows as they come; returns the figures."""
    windows = write_windows(folder / "windows.jsonl", options.samples, options.length, options.vocabulary)
    models: dict[int, Path] = {}
    for layers in options.layers:
        place = folder / f"model-{layers}-{options.hidden}-{options.vocabulary}"
        models[layers] = place
        if not (place / "tokenizer.json").is_file():
            write_checkpoint(place, layers, options.hidden, options.vocabulary)
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER), flush=True)
    results: list[dict[str, Any]] = []
    for recipe in options.recipe or RECIPE_NAMES:
        runs = runs_of(recipe, options.env)
        by_tool: dict[str, dict[int, Outcome]] = {run.tool: {} for run in runs}
        for layers, model in models.items():
            job = {"model": str(model), "windows": str(windows), "threads": options.threads, "dtype": options.dtype}
            for run in runs:
                with tempfile.TemporaryDirectory(dir=folder) as temporary:
                    place = Path(temporary) / run.tool
                    outcome = start(run, options.env[run.tool], job, place, options.limit)
                by_tool[run.tool][layers] = outcome
                print("| " + " | ".join(row(recipe, layers, outcome, by_tool["llmc"].get(layers))) + " |", flush=True)
                results.append(_figures(recipe, layers, outcome))
        for text in filter(None, map(scaled, by_tool.values())):
            print(text, flush=True)
    return results


def _figures(recipe: str, layers: int, outcome: Outcome) -> dict[str, Any]:
    names: Sequence[str] = ("version", "error", "seconds", "cpu_seconds", "stages", "peak_bytes")
    figures = {name: getattr(outcome, name) for name in names}
    return {"recipe": recipe, "layers": layers, "tool": outcome.run.tool, **figures}


def main() -> None:
    """Print the table."""
    options = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        results = measure(options, folder)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
