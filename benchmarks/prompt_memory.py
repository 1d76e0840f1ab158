"""Peak memory of a prompt beside its length: `python benchmarks/prompt_memory.py [--lengths 2000 4000 8000 16000]`.

A model with ALiBi, whose attention bias has an element for each head, token and token before it, and one with rotary
positions, whose mask has one for each token and token before it; both of 8 heads, small, with made-up weights. Each
prompt runs in a process of its own, whose peak resident memory counts, less that of the same process for a prompt of
one token. The last column is that growth over what it would be if it grew like the prompt from the shortest one on: 1
is linear in the length, and a product of lengths would double it from line to line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import llmc

LENGTHS = (2000, 4000, 8000, 16_000)
HIDDEN, HEADS, LAYERS, VOCABULARY = 256, 8, 2, 1024
CONFIGS: dict[str, dict[str, Any]] = {
    "ALiBi (MPT)": {
        "model_type": "mpt", "architectures": ["MPTForCausalLM"], "d_model": HIDDEN, "n_heads": HEADS,
        "n_layers": LAYERS, "expansion_ratio": 4, "max_seq_len": max(LENGTHS) + 1, "vocab_size": VOCABULARY,
        "attn_config": {"alibi": True}, "torch_dtype": "float32",
    },
    "rotary (GPT-NeoX)": {
        "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "hidden_size": HIDDEN,
        "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "intermediate_size": 4 * HIDDEN,
        "max_position_embeddings": max(LENGTHS) + 1, "vocab_size": VOCABULARY, "torch_dtype": "float32",
    },
}  # fmt: skip

_RUN = """
import json, resource, sys, time, llmc
engine = llmc.load(sys.argv[1], executor=sys.argv[2], device="cpu")
start = time.perf_counter()
engine.generate([[i % 1000 for i in range(int(sys.argv[3]))]], max_new_tokens=1)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"peak": peak, "seconds": time.perf_counter() - start}))
"""


def measure(engine: Path, executor: str, length: int) -> dict[str, float]:
    """The peak memory in bytes of a process that takes in a prompt, and the seconds that this took."""
    command = [sys.executable, "-c", _RUN, str(engine), executor, str(length)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def rows(engine: Path, executor: str, lengths: list[int]) -> list[tuple[str, ...]]:
    """A line of the table for each length."""
    base = measure(engine, executor, 1)["peak"]
    lines, first = [], 0.0
    for length in lengths:
        found = measure(engine, executor, length)
        growth = found["peak"] - base
        first = first or growth / length
        lines.append(
            (
                f"{length:,}",
                f"{found['seconds']:.1f}",
                f"{found['peak'] / 1e6:,.0f}",
                f"{growth / 1e6:,.0f}",
                f"{growth / length / first:.2f}",
            )
        )
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="tokens of the prompts")
    parser.add_argument("--executor", default="torch", help="torch or interpreter")
    options = parser.parse_args()
    started = time.perf_counter()
    table = Table("model", "tokens", "s", "peak MB", "growth MB", "of linear", title="Memory of a prompt")
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, config) in enumerate(CONFIGS.items()):
            source, engine = Path(folder) / f"model{number}", Path(folder) / f"engine{number}"
            source.mkdir()
            (source / "config.json").write_text(json.dumps(config))
            llmc.compile(source, engine, target="torch", dummy_weights=True, max_batch=1, dtype="float32")
            for line in rows(engine, options.executor, sorted(options.lengths)):
                table.add_row(name, *line)
    Console(width=100).print(table)
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
