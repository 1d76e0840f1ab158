"""The attention and norm kernels of the CUDA executor on a GPU: times, shares of the bandwidth, errors.

Run it with `python benchmarks/gpu_attention.py`; `--check` first sees that they compute what the interpreter does,
`--tune` tries tiles. Calls are timed in a CUDA graph that goes over several layers' pools, which do not fit into the
GPU's cache. The bandwidth is measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from attention_check import check, compile_check
from attention_steps import FLAT_BYTES, FORMS, POOLS, Case, Memory
from attention_timing import attempt, compile_all, reference_prefill, show, write_alone
from attention_tuning import tune
from gpu_norms import norms
from graph_timing import APART, START, bandwidth, say

from runtime.executors.cuda.kernels import dependent

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the tests' cases are


def main() -> None:
    """Print the tables; leave with 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="see first that results are those of the interpreter")
    parser.add_argument("--tune", action="store_true", help="try tiles instead of timing the defaults")
    parser.add_argument("--apart", action="store_true", help="let no kernel start before the one before it has ended")
    parser.add_argument("--only-check", action="store_true", help="time nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to a file, too")
    arguments = parser.parse_args()
    if arguments.apart:
        os.environ[APART] = "1"
    dependent.ENABLED = APART not in os.environ
    say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    failed = 0
    if arguments.check or arguments.only_check:
        from tests.runtime.executors.cuda.attention_cases import gpu_cases

        with multiprocessing.get_context("spawn").Pool(max(1, min(14, (os.cpu_count() or 2) - 1))) as pool:
            pool.map(compile_check, gpu_cases(), chunksize=2)
        failed = check()
    if not arguments.only_check:
        figures = tune() if arguments.tune else defaults()
        if arguments.json:
            arguments.json.write_text(json.dumps(figures, indent=1))
    say(f"{time.time() - START:.0f} s in all")
    sys.exit(1 if failed else 0)


def defaults() -> dict[str, Any]:
    """Time the kernels as they are."""
    decodes = [
        Case(form, pool, batch, length - 1)
        for pool in POOLS
        for form in FORMS
        for batch in (1, 8, 64)
        for length in (256, 1024, 4096)
    ]
    prefills = [
        Case(form, pool, *shape)
        for pool in ("f16", "fp8")
        for form in FORMS
        for shape in ((8, 0, 128), (1, 0, 512), (1, 0, 2048))
    ]
    mixed = [Case(form, pool, 1, 0, 512, beside=256) for pool in ("f16", "i8") for form in FORMS]
    shapes = {(each.form, each.pool, each.batch > 8): each for each in decodes}
    compile_all([*shapes.values(), *mixed, *{(each.form, each.pool): each for each in prefills}.values()])
    memory, peak = Memory(FLAT_BYTES), bandwidth()
    say(f"bandwidth {peak / 1e12:.2f} TB/s")
    say("decode: form, pool, batch, length, us a layer, share of the bandwidth, error")
    timed = [attempt(case, memory, peak) for case in decodes]
    for result in timed:
        if result:
            result["length"] = result["past"] + 1
    show(timed, "form", "pool", "batch", "length", "us", "share", "error")
    say(
        "prefill: form, pool, batch, tokens, us a layer, TFLOP/s, error, us of the writing alone, us of torch's flash "
        "attention, and that of ours"
    )
    chunks = []
    for case in prefills:
        result = attempt(case, memory, peak)
        if result:
            result["flash us"] = round(reference_prefill(case), 1)
            result["write us"] = round(write_alone(case, memory), 1)
            result["ratio"] = round(result["flash us"] / result["us"], 2)
        chunks.append(result)
    show(chunks, "form", "pool", "batch", "new", "us", "tflops", "error", "write us", "flash us", "ratio")
    say(
        "256 sequences decode at 256 tokens beside a prompt of 512: form, pool, us a layer, share of the bandwidth, "
        "us of those that decode alone"
    )
    both = []
    for case in mixed:
        result, alone = (attempt(each, memory, peak) for each in (case, Case(case.form, case.pool, case.beside, 255)))
        if result and alone:
            result["decode us"] = alone["us"]
        both.append(result)
    show(both, "form", "pool", "us", "share", "decode us")
    say(
        "add_norm of 4 parts, 4,096 wide: kind, tokens, us, share of the bandwidth, error, error of the sum, whether "
        "two norms, and those of rows, are the same"
    )
    summed = norms(peak)
    show(summed, "kind", "tokens", "us", "share", "error", "sum error", "alike")
    return {"bandwidth": peak, "decode": timed, "prefill": chunks, "mixed": both, "add_norm": summed}


if __name__ == "__main__":
    main()
