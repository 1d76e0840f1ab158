"""How long the kernels of an engine's products take to compile, one after the other and side by side.

`python benchmarks/gpu_compile.py` counts the kernels that a GPT-J of 6 B with quantized weights needs for steps of 1 to
`--batch` sequences, as an engine does that is loaded, and compiles them twice into empty caches: in one process, and in
as many as there are processors. No GPU is needed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from compiler.ir.dtypes import DType
from runtime.executors.cuda.kernels.precompile import Compilation
from runtime.executors.cuda.kernels.preparing import jobs_of
from runtime.executors.cuda.kernels.products import Product, Section, Tuning, Use
from runtime.executors.cuda.kernels.tuning import _shipped
from runtime.executors.torch.packed import PackedWeight

FORMS = {
    "int8": (DType.i8, torch.int8, 0),
    "fp8": (DType.f8e4m3, torch.float8_e4m3fn, 0),
    "int4": (DType.i4, torch.uint8, 128),
}
H100 = ("NVIDIA H100 80GB HBM3", 132, 232448)


def part(form: str, n: int, k: int) -> PackedWeight:
    """A weight `[n, k]` of zeros."""
    dtype, stored, group = FORMS[form]
    q = torch.zeros(n, k // 2 if dtype is DType.i4 else k, dtype=torch.uint8).view(stored)
    return PackedWeight(q, torch.ones(n, k // group if group else 1), None, (n, k), dtype)


def products(form: str) -> list[Product]:
    """The products of a layer, and that of the logits, without memory."""
    table = Tuning(*H100, shipped=_shipped(H100[0]))
    meta = torch.device("meta")
    made = []
    for columns, sections, partial in (
        ((4096,), (Section(12288, None), Section(16384, "gelu_tanh")), False),
        ((4096, 16384), (Section(4096, None),), True),
        ((4096,), (Section(50400, None),), False),
    ):
        parts = [[part(form, section.size, k) for k in columns] for section in sections]
        made.append(Product(parts, sections, None, torch.float16, meta, table, Use(partial=partial)))
    return made


def main() -> None:
    """Compile what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", choices=FORMS, default="int8")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    start = time.monotonic()
    jobs = jobs_of(products(options.form), options.batch)
    print(f"{len(jobs)} kernels for up to {options.batch} rows, found in {time.monotonic() - start:.1f} s", flush=True)
    for workers in sorted({1, options.workers}):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TRITON_CACHE_DIR"] = folder
            print(Compilation(jobs, (9, 0), workers).finish(300), flush=True)


if __name__ == "__main__":
    main()
