"""Products of few rows by the CPU kernels, beside the memory's bandwidth: `python benchmarks/cpu_kernels.py`.

For each stored form of a weight, its shape and the number of rows: how many GB of weights are read a second, scales
included, and how much of the bandwidth that is. As many copies of a weight are multiplied by turns as no cache holds.
`LLMC_CPU_PATH` chooses the instructions.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.int4 import pack_int4
from runtime.executors.cpu.huge_pages import HugePages
from runtime.executors.cpu.library import Library, load_library
from runtime.executors.cpu.products import Product
from runtime.executors.cpu.program import ProgramBuilder, Size
from runtime.executors.torch.packed import PackedWeight

SHAPES = ("768x768", "3072x768", "768x3072", "50272x768", "2048x8192")
FORMS = ("f32", "f16", "bf16", "f8", "i8", "i8g32", "i8i8", "i4", "i4g32", "i4g128", "i4g128z")
"""The type, `g` and how many inputs share a scale, `z` for zero points, `i8` at the end for inputs of int8."""
_DENSE = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_TURNS = 5


def weight_of(form: str, n: int, k: int) -> Tensor | PackedWeight:
    """A random weight."""
    if form in _DENSE:
        return torch.randn(n, k).to(_DENSE[form])
    group = int(form[3:].rstrip("z")) if "g" in form else k
    scale = torch.rand(n, k // group) / 100 + 0.01
    zero = torch.randint(-8, 8, scale.shape, dtype=torch.int8) if form.endswith("z") else None
    if form == "f8":
        return PackedWeight(torch.randn(n, k).to(torch.float8_e4m3fn), scale, zero, (n, k), DType.f8e4m3)
    if form.startswith("i4"):
        q = torch.randint(-8, 8, (n, k), dtype=torch.int8)
        return PackedWeight(pack_int4(q), scale, zero, (n, k), DType.i4)
    return PackedWeight(torch.randint(-128, 128, (n, k), dtype=torch.int8), scale, zero, (n, k), DType.i8)


def best_seconds(run: Callable[[], object]) -> float:
    """The shortest of some runs, after one that is not counted."""
    run()
    times = []
    for _ in range(_TURNS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def bandwidth(size: int) -> float:
    """Bytes a second that all threads read from huge pages."""
    memory = HugePages().take(size).view(torch.float32)
    memory.fill_(1)
    return memory.nbytes / best_seconds(memory.sum)


def rates(
    library: Library, form: str, shape: tuple[int, int], rows: Sequence[int], size: int, threads: int, few: int | None
) -> list[float]:
    """Bytes of weights a second, for each number of rows."""
    n, k = shape
    weight = weight_of(form, n, k)
    integers = form.endswith("i8") and form != "i8"
    products = [Product(library, weight, integers=integers, threads=threads)]
    copies = max(1, math.ceil(size / products[0].nbytes))
    products += [Product(library, weight, integers=integers, threads=threads) for _ in range(copies - 1)]
    builder = ProgramBuilder(library)
    x = builder.external("x", Size.TOKENS, k, torch.int8 if integers else torch.float32)
    scale = builder.external("scale", Size.TOKENS, 1, torch.float32) if integers else None
    out = builder.external("out", Size.TOKENS, n, torch.float32)
    for product in products:
        if few is not None:
            product.few = few
        product.emit(builder, x, out, scale)
    program = builder.build()
    read = sum(product.nbytes for product in products)

    def rate(count: int) -> float:
        inputs = torch.randint(-128, 128, (count, k), dtype=torch.int8) if integers else torch.randn(count, k)
        memory = {"x": inputs, "out": torch.empty(count, n)}
        if integers:
            memory["scale"] = torch.ones(count, 1)
        return read / best_seconds(lambda: program.run({Size.TOKENS: count}, memory, threads))

    return [rate(count) for count in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="*", default=FORMS, help="stored forms (default: all)")
    parser.add_argument("--shapes", nargs="*", default=SHAPES, help="outputs x inputs")
    parser.add_argument("--rows", nargs="*", type=int, default=[1, 4, 8], help="numbers of rows")
    parser.add_argument("--mb", type=int, default=256, help="MB of weights that are read by turns")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--few", type=int, help="up to how many rows the kernel for few rows multiplies")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    library, size = load_library(), args.mb << 20
    most = bandwidth(size)
    results = []
    for form in args.forms:
        for shape in args.shapes:
            n, k = map(int, shape.split("x"))
            found = rates(library, form, (n, k), args.rows, size, args.threads, args.few)
            results += [
                {"form": form, "shape": shape, "rows": rows, "gb_s": rate / 1e9, "of_bandwidth": rate / most}
                for rows, rate in zip(args.rows, found, strict=True)
            ]
    if args.json:
        print(json.dumps({"path": library.path.name, "bandwidth_gb_s": most / 1e9, "results": results}, indent=1))
        return
    title = f"{library.path.name}, {args.threads} threads, {most / 1e9:.1f} GB/s"
    table = Table("form", *(f"{shape}\n{' / '.join(map(str, args.rows))}" for shape in args.shapes), title=title)
    for form in args.forms:
        found_by_shape = [
            " / ".join(f"{r['gb_s']:.1f}" for r in results if (r["form"], r["shape"]) == (form, shape))
            for shape in args.shapes
        ]
        table.add_row(form, *found_by_shape)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
