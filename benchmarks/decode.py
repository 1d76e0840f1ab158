"""Decode speed on the CPU beside transformers, and the memory-bandwidth bound: `python benchmarks/decode.py`.

For the shapes of OPT-125m and Pythia-160m with random weights: tokens a second of the torch target, of transformers'
`generate` (eager, and with a static cache and torch.compile where that works), at batch 1 and 8, in float32 and
bfloat16. All of a row is measured in one process, in turns, and the best turn of each counts. The bound is the bytes
of the weights that a step reads over the bandwidth of reading a large array, measured in the same run.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # as llmc.load does; before torch, so that both sides have it

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, GPTNeoXConfig, OPTConfig

import llmc

PROMPT, NEW = 32, 64
SHAPES = {
    "opt-125m": OPTConfig(),  # its defaults
    "pythia-160m": GPTNeoXConfig(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, vocab_size=50304
    ),
}


def bandwidth() -> float:
    """Bytes a second at which all threads together read memory."""
    array = torch.ones(100_000_000)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        array.sum()
        times.append(time.perf_counter() - start)
    return array.nbytes / min(times)


def decode_rate(generate: Callable[[int], object], batch: int) -> float:
    """Tokens a second that each further token costs: the prompt and what happens once cancel out."""
    times = {}
    for count in (4, 4 + NEW):
        start = time.perf_counter()
        generate(count)
        times[count] = time.perf_counter() - start
    return batch * NEW / (times[4 + NEW] - times[4])


def transformers_runs(model: Any, ids: torch.Tensor, compiled: bool) -> dict[str, Callable[[int], object]]:
    """Functions that generate a number of tokens with transformers."""

    def eager(count: int) -> object:
        return model.generate(ids, max_new_tokens=count, min_new_tokens=count, do_sample=False)

    def with_compile(count: int) -> object:
        return model.generate(
            ids, max_new_tokens=count, min_new_tokens=count, do_sample=False, cache_implementation="static"
        )

    if not compiled:
        return {"eager": eager}
    model.forward = torch.compile(model.forward, dynamic=False)
    return {"compiled": with_compile}


def measure(name: str, dtype: str, batch: int, turns: int, *, compiled: bool) -> dict[str, Any]:
    """One row of the table."""
    torch.manual_seed(0)
    config = SHAPES[name]
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    weights = sum(p.nbytes for p in {id(p): p for p in model.parameters()}.values())
    if not config.tie_word_embeddings:
        weights -= model.get_input_embeddings().weight.nbytes  # a step reads a row of it
    ids = torch.randint(5, 1000, (batch, PROMPT))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder) / "model")
        engine = llmc.compile(Path(folder) / "model", Path(folder) / "engine", dtype=dtype, max_batch=batch).path
        runtime = llmc.load(engine, device="cpu", batch=batch)
        runs = transformers_runs(model, ids, compiled=False)
        runs["llmc"] = lambda count: runtime.generate(ids.tolist(), max_new_tokens=count, ignore_eos=True)
        best = dict.fromkeys(runs, 0.0)
        fastest_read = 0.0
        for _ in range(turns):
            fastest_read = max(fastest_read, bandwidth())
            for who, run in runs.items():
                best[who] = max(best[who], decode_rate(run, batch))
        if compiled:
            best |= {"compiled": _compiled_rate(model, ids, batch)}
    return {"model": name, "dtype": dtype, "batch": batch, "bound": fastest_read / weights * batch, **best}


def _compiled_rate(model: Any, ids: torch.Tensor, batch: int) -> float | None:
    run = transformers_runs(model, ids, compiled=True)["compiled"]
    try:
        run(8)  # compiles
        return max(decode_rate(run, batch) for _ in range(2))
    except Exception as error:  # noqa: BLE001 - whatever keeps it from compiling here, it is not what we measure
        print(f"transformers with torch.compile does not work here: {str(error).splitlines()[0]}")
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3, help="how often each is measured")
    parser.add_argument("--compiled", action="store_true", help="measure torch.compile too (needs a C++ compiler)")
    parser.add_argument("--only", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--dtype", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--json", action="store_true", help="print one JSON object a row instead of a table")
    args = parser.parse_args()
    table = Table("shape", "dtype", "batch", "transformers", "compiled", "llmc", "ratio", "bandwidth bound")
    for name in args.only:
        for dtype in args.dtype:
            for batch in (1, 8):
                row = measure(name, dtype, batch, args.turns, compiled=args.compiled)
                gc.collect()
                if args.json:
                    print(json.dumps(row), flush=True)
                    continue
                compiled = f"{row['compiled']:.0f}" if row.get("compiled") else "-"
                table.add_row(
                    name, dtype, str(batch), f"{row['eager']:.0f}", compiled, f"{row['llmc']:.0f}",
                    f"{row['llmc'] / max(row['eager'], row.get('compiled') or 0):.2f}", f"{row['bound']:.0f}",
                )  # fmt: skip
    if not args.json:
        Console().print("tokens a second, decoding", table)


if __name__ == "__main__":
    main()
