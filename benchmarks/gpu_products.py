"""Products on a CUDA GPU: time, share of the memory's bandwidth, arithmetic and error, by form of the weight.

`python benchmarks/gpu_products.py` prints a line for each form, shape and number of rows: the launch that llmc takes,
its microseconds, the share of the bandwidth that this run measured, operations a second, and the error relative to the
largest value of the product in float64. With `--tune` it tries all launches worth measuring, and writes the fastest
ones to `--out` as they come in `tuned.json`; libraries are among them for more than 64 rows, and a line says what they
take. Weights are random, and so many that none is in the GPU's cache.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from compiler.ir.dtypes import DType
from compiler.ir.evaluators.quant import dequantize
from compiler.ir.int4 import pack_int4
from runtime.executors.cuda.kernels.launches import Launch
from runtime.executors.cuda.kernels.measuring import Bench, microseconds
from runtime.executors.cuda.kernels.precompile import precompile
from runtime.executors.cuda.kernels.products import Product, Section, Tuning, WeightPart
from runtime.executors.cuda.kernels.rounding import Rounded, widened_rows
from runtime.executors.cuda.kernels.tuning import LIBRARY, MOST_TILED, Config, configs
from runtime.executors.torch.packed import PackedWeight

SHAPES = ((28672, 4096), (4096, 20480), (50400, 4096), (12288, 4096), (16384, 4096), (4096, 16384), (4096, 4096))
FORMS: dict[str, tuple[DType | None, int, bool, torch.dtype]] = {
    "f16": (None, 0, False, torch.float16),
    "int8": (DType.i8, 0, False, torch.float16),
    "int4": (DType.i4, 128, False, torch.float16),
    "fp8": (DType.f8e4m3, 0, False, torch.float16),
    "int4z": (DType.i4, 128, True, torch.float16),
    "bf16": (None, 0, False, torch.bfloat16),
    "int8bf": (DType.i8, 0, False, torch.bfloat16),
    "int4bf": (DType.i4, 128, False, torch.bfloat16),
    "int8g": (DType.i8, 128, False, torch.float16),
    "int4g32": (DType.i4, 32, True, torch.float16),
    "f32": (None, 0, False, torch.float32),
    "w8a8": (DType.i8, 0, False, torch.float16),
    "fp8a8": (DType.f8e4m3, 0, False, torch.float16),
}
"""The stored type, columns that share a scale (0: all), zero points, the type of the activations."""
ROUNDED = ("w8a8", "fp8a8")
"""The forms whose activations are rounded to the type of the weight."""
DEFAULT_FORMS = "f16 int8 int4 fp8 int4z bf16 w8a8 fp8a8"
ROWS = (1, 8, 16, 64, 512)
DEVICE = torch.device("cuda")
MOST_ERROR = {torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float32: 1e-4}
"""Above it, a launch is WRONG."""
TRUE_ROWS = 512  # of the result, whose float64 values are computed


def weight(form: str, n: int, k: int) -> tuple[WeightPart, Tensor]:
    """A random weight `[n, k]`, and its first rows in float64."""
    dtype, group, zeros, compute = FORMS[form]
    if dtype is None:
        dense = (torch.randn(n, k, device=DEVICE) * 0.02).to(compute)
        return dense, dense[:TRUE_ROWS].double()
    groups = k // group if group else 1
    scale = torch.rand(n, groups, device=DEVICE) * 3e-3 + 1e-3
    zero = torch.randint(-8, 8, (n, groups), device=DEVICE, dtype=torch.int8) if zeros else None
    if dtype is DType.f8e4m3:
        q = (torch.randn(n, k, device=DEVICE) * 64).clamp(-448, 448).to(torch.float8_e4m3fn)
    else:
        low = -8 if dtype is DType.i4 else -128
        q = torch.randint(low, -low, (n, k), device=DEVICE, dtype=torch.int8)
    part = PackedWeight(pack_int4(q) if dtype is DType.i4 else q, scale, zero, (n, k), dtype)
    first = None if zero is None else zero[:TRUE_ROWS]
    return part, dequantize(q[:TRUE_ROWS].double(), scale[:TRUE_ROWS].double(), first)


def words(text: str) -> list[str]:
    """The words of a list, with spaces or commas between them."""
    return text.replace(",", " ").split()


def read_bandwidth() -> float:
    """Bytes a second at which the GPU sums a large array."""
    array = torch.ones(1 << 30, device=DEVICE).view(1 << 14, 1 << 16)
    return array.nbytes / microseconds([lambda: array.sum(1)]) * 1e6


def product(form: str, n: int, k: int, table: Tuning, inputs: int) -> tuple[Product, Tensor]:
    """A product, and the first rows of its weight in float64."""
    sizes = [k] if inputs == 1 else [k // 5, k - k // 5]  # as attention's and the MLP's output of a parallel layer
    parts = [weight(form, n, size) for size in sizes]
    made = Product([[part for part, _ in parts]], [Section(n, None)], None, FORMS[form][3], DEVICE, table)
    return made, torch.cat([true for _, true in parts], 1)


def error(bench: Bench, launch: Launch, true: Tensor) -> float:
    """The largest error of some columns of the product, relative to the largest value."""
    y = bench.call(launch, bench.product.weight.q).double()
    y = y.sum(0) if bench.partial else y
    xs = [widened_rows(x, torch.float64) if isinstance(x, Rounded) else x.double() for x in bench.xs]
    expected = torch.cat(xs, 1) @ true.T
    return float((y[:, : len(true)] - expected).abs().max() / expected.abs().max())


def differs(bench: Bench, launch: Launch, times: int) -> int:
    """How many of some repetitions of a product give other bits than the first: none, unless there is a race."""
    q = bench.product.weight.q
    first = bench.call(launch, q).clone()
    unlike = torch.zeros((), dtype=torch.int64, device=DEVICE)
    for _ in range(times):
        unlike += (bench.call(launch, q) != first).any()
    return int(unlike)


def launches_of(bench: Bench, tune: bool) -> dict[Config, Launch]:
    """The launches to measure: those worth it, or the one that llmc takes."""
    if tune and bench.rows <= MOST_TILED:
        return bench.launches()
    launch = bench.product.launch(bench.rows, bench.partial, bench.rounded)
    return {launch.config: launch}


class Measured(NamedTuple):
    """What a launch took, in microseconds, and its error."""

    took: float
    config: Config
    off: float


def measured(bench: Bench, launch: Launch, config: Config, true: Tensor, times: int) -> Measured | None:
    """The time of a launch; None if it does not run or is wrong, which is printed."""
    try:
        off = error(bench, launch, true)
        took = bench.microseconds(launch)
        unlike = differs(bench, launch, times)
    except Exception as failure:  # noqa: BLE001  # said, and the others are measured
        print(f"  {config} {type(failure).__name__}: {str(failure)[:200]}", flush=True)
        return None
    if not off < MOST_ERROR[bench.product.dtype]:
        print(f"WRONG {bench.case.key if bench.rows <= MOST_TILED else ''} {config}: error {off:.1e}", flush=True)
        return None
    if unlike:
        print(
            f"UNSTEADY {bench.case.key if bench.rows <= MOST_TILED else ''} {config}: {unlike} of {times}", flush=True
        )
        return None
    return Measured(took, config, off)


def line(form: str, bench: Bench, found: Measured, bandwidth: float, tried: int, more: str = "") -> str:
    """What is printed of a measurement."""
    n, k = bench.product.weight.rows, bench.product.weight.k
    share = bench.product.nbytes / found.took * 1e6 / bandwidth
    what = " ".join(map(str, found.config if found.config.kind != LIBRARY else (LIBRARY,)))
    operations = 2 * n * k * bench.rows / found.took / 1e6
    parts = " partial" if bench.partial else ""
    return (
        f"{form:8}{n:>7} x{k:>6} {bench.rows:>3} {found.took:8.1f} us {share:6.1%} {operations:4.0f} TFLOP/s "
        f"error {found.off:.0e}  {what} ({tried}){parts}{more}"
    )


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", default=DEFAULT_FORMS, help=f"of {' '.join(FORMS)}")
    parser.add_argument("--shapes", default=" ".join(f"{n}x{k}" for n, k in SHAPES), help="as 28672x4096 4096x20480")
    parser.add_argument("--rows", default=" ".join(map(str, ROWS)))
    parser.add_argument("--tune", action="store_true", help="try all launches worth measuring")
    parser.add_argument("--partial", action="store_true", help="leave the parts of split sums to the caller")
    parser.add_argument("--pair", action="store_true", help="two inputs, of a fifth of the columns and of the others")
    parser.add_argument("--repeat", type=int, default=0, help="repeat each product, whose bits must not change")
    parser.add_argument("--all", action="store_true", help="print every launch that is tried")
    parser.add_argument("--budget", type=float, default=240, help="seconds that it may take")
    parser.add_argument("--launches", type=Path, help="take the launches of such a file as --out writes")
    parser.add_argument("--out", type=Path, help="a JSON file for the fastest launches")
    options = parser.parse_args()
    start = time.monotonic()
    deadline = start + options.budget
    table = Tuning.of(DEVICE)
    if options.launches:
        table.known |= configs(json.loads(options.launches.read_text())[table.gpu])
    bandwidth = read_bandwidth()
    print(f"{table.gpu}: reads {bandwidth / 1e12:.2f} TB/s, {table.processors} multiprocessors", flush=True)
    shapes = [tuple(map(int, shape.split("x"))) for shape in words(options.shapes)]
    rows = list(map(int, words(options.rows)))
    forms = words(options.forms)
    inputs = 2 if options.pair else 1
    kept: dict[str, list[object]] = {}

    jobs = []
    for form in forms:
        for n, k in shapes:
            made, _ = product(form, n, k, table, inputs)
            for r in rows:
                bench = Bench(made, r, options.partial, form in ROUNDED)
                jobs += bench.jobs(launches_of(bench, options.tune).values())
    print(f"{time.monotonic() - start:.0f} s; compiling", flush=True)
    print(precompile(jobs, torch.cuda.get_device_capability(), options.budget * 0.45), flush=True)

    for n, k in shapes:
        for form in forms:
            torch.cuda.empty_cache()
            made, true = product(form, n, k, table, inputs)
            copies = None
            for r in rows:
                if time.monotonic() > deadline:
                    print("no time is left for the others")
                    break
                bench = Bench(made, r, options.partial, form in ROUNDED)
                if copies is not None:
                    bench.copies = copies
                copies = bench.copies
                launches = launches_of(bench, options.tune)
                right: list[Measured] = []
                for config, launch in launches.items():
                    found = measured(bench, launch, config, true, options.repeat)
                    if found is None:
                        continue
                    right.append(found)
                    if options.all:
                        print("  " + line(form, bench, found, bandwidth, 1), flush=True)
                if not right:
                    continue
                best = min(right)
                more = "".join(f"  library {each.took:.1f} us" for each in right if each.config.kind == LIBRARY)
                print(line(form, bench, best, bandwidth, len(launches), more), flush=True)
                if r <= MOST_TILED:
                    kept.setdefault(bench.case.key, list(best.config))
            if options.out:
                options.out.write_text(json.dumps({str(table.gpu): kept}, indent=1))
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
