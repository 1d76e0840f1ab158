"""The attention and norm kernels of the CUDA executor on a GPU: times, shares of the bandwidth, errors.

Run it with `python benchmarks/gpu_attention.py`; `--check` first sees that they compute what the interpreter does,
`--tune` tries tiles. Calls are timed in a CUDA graph that goes over several layers' pools, which do not fit into the
GPU's cache. The bandwidth is measured in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from compiler.ir.packed_step import Span
from runtime.executors.cuda.kernels import attention, dependent, tiles
from runtime.executors.cuda.kernels.addresses import Addresses, work_items
from runtime.executors.cuda.kernels.attention import AttentionForm, CacheScales, Rotary, Workspace, attend
from runtime.executors.cuda.kernels.norms import Affine, add_norm, add_norm_of_rows
from runtime.executors.cuda.kernels.tiles import DecodeTiles

START = time.time()
_APART = "GPU_ATTENTION_APART"
"""Tells the processes that compile that kernels are launched one after the other."""
dependent.ENABLED = _APART not in os.environ
BLOCK = 64
FORMS = {"16x256": (16, 16, 256), "32x128": (32, 32, 128), "32x80": (32, 32, 80), "32/1x128": (32, 1, 128)}
POOLS = {"f16": torch.float16, "i8": torch.int8, "fp8": torch.float8_e4m3fn}
FLAT_BYTES = 10 * 2**30


def say(*parts: object) -> None:
    print(*parts, flush=True)


class Memory:
    """One large piece of memory with random values for each element type, which all cases share."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._flat: dict[torch.dtype, Tensor] = {}

    def pools(self, dtype: torch.dtype, count: int, shape: Sequence[int]) -> list[Tensor]:
        """So many pools, one after the other."""
        if dtype not in self._flat:
            self._flat.clear()
            torch.cuda.empty_cache()
            self._flat[dtype] = self._random(dtype)
        flat, each = self._flat[dtype], torch.Size(shape).numel()
        count = max(1, min(count, flat.numel() // each))
        return [flat[at * each : (at + 1) * each].view(*shape) for at in range(count)]

    def _random(self, dtype: torch.dtype) -> Tensor:
        if dtype is torch.float16:
            return torch.empty(self.size // 2, dtype=dtype, device="cuda").normal_()
        if dtype is torch.int8:
            return torch.empty(self.size, dtype=dtype, device="cuda").random_(-127, 128)
        bits = torch.empty(self.size, dtype=torch.uint8, device="cuda").random_(0, 256)
        return bits.bitwise_and_(0xB7).view(dtype)  # without the largest exponents, and so without NaN


def time_graph(calls: Sequence[Callable[[], Any]], replays: int = 15) -> float:
    """Microseconds a call, as the median of the replays of a graph of all calls."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        calls[0]()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for call in calls:
                call()
    graph.replay()
    times = []
    for _ in range(replays):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / len(calls))
    return statistics.median(times)


def bandwidth() -> float:
    """Bytes a second that a kernel reads, or a copy moves: what is more."""
    x = torch.empty(2**30, dtype=torch.float32, device="cuda").normal_()
    y = torch.empty_like(x[: 2**28])
    read = x.numel() * 4 / time_graph([lambda: torch.sum(x)], 5)
    moved = 2 * y.numel() * 4 / time_graph([lambda: y.copy_(x[: 2**28])], 5)
    return max(read, moved) * 1e6


@dataclass(frozen=True)
class Case:
    """One step: `batch` sequences that each get `new` tokens after `past`, beside `beside` that decode at 256 tokens.

    `tiles`, `least` and `waves` replace the defaults of the kernels. The tiles of single tokens are how many rows a
    thread has, the warps and the stages; with shared keys, how many positions are read at a time, the warps and the
    stages. Those of chunks are queries, positions, warps and stages.
    """

    form: str
    pool: str
    batch: int
    past: int
    new: int = 1
    tiles: tuple[int | None, ...] | None = None
    least: int | None = None
    waves: int | None = None
    beside: int = 0

    @property
    def spans(self) -> list[Span]:
        """The sequences, those that decode first."""
        counts = [(255, 1)] * self.beside + [(self.past, self.new)] * self.batch
        stops = itertools.accumulate(new for _, new in counts)
        return [
            Span(row, stop - new, stop, past) for row, ((past, new), stop) in enumerate(zip(counts, stops, strict=True))
        ]

    @property
    def length(self) -> int:
        return self.past + self.new

    @property
    def bytes(self) -> int:
        heads, kv_heads, width = FORMS[self.form]
        cache = sum(span.length for span in self.spans) * kv_heads * width * 2 * POOLS[self.pool].itemsize
        return cache + sum(span.new for span in self.spans) * (heads + kv_heads) * width * 2 * 2

    @property
    def operations(self) -> float:
        heads, _, width = FORMS[self.form]
        return 4.0 * heads * width * sum(sum(range(span.past + 1, span.length + 1)) for span in self.spans)

    def set_up(self) -> None:
        """Use the case's tiles."""
        tiles._LEAST_SHARE = self.least or DEFAULTS["least"]
        tiles._WAVES = self.waves or DEFAULTS["waves"]
        attention.decode_tiles = DEFAULTS["decode"]
        attention.prefill_tiles = DEFAULTS["prefill"]
        tiles._UNROLL, tiles._WARPS, tiles._STAGES = DEFAULTS["own"]
        heads, kv_heads, _ = FORMS[self.form]
        if self.tiles and self.new > 1:
            attention.prefill_tiles = lambda *_: self.tiles
        elif self.tiles and heads == kv_heads:
            tiles._UNROLL, tiles._WARPS, tiles._STAGES = self.tiles
        elif self.tiles:
            positions, warps, stages = self.tiles
            attention.decode_tiles = lambda *_: DecodeTiles(1, max(16, heads // kv_heads), positions, 1, warps, stages)

    def step(self, memory: Memory, layers: int, *, alone: bool = False) -> Step:
        """The tensors of the step over so many layers; with `alone`, pools of one block, which suffice to compile."""
        heads, kv_heads, width = FORMS[self.form]
        spans = self.spans
        per = -(-max(span.length for span in spans) // BLOCK)
        count = 1 if alone else len(spans) * per
        order = torch.zeros(len(spans) * per, dtype=torch.int64) if alone else torch.randperm(count)
        tables = order.int().view(len(spans), per).cuda()
        tokens = spans[-1].stop
        positions = torch.cat([torch.arange(span.past, span.length) for span in spans]).int().cuda()
        rows = torch.cat([torch.full((span.new,), span.row) for span in spans]).int().cuda()
        decodes = self.new == 1
        queries = None if decodes else work_items(span for span in spans if span.new > 1).cuda()
        singles = torch.arange(self.beside, dtype=torch.int32).cuda() if self.beside and not decodes else None
        longest = max(span.length for span in spans)
        addresses = Addresses(positions, rows, tables, BLOCK, longest, decodes, queries, singles)
        fused = torch.randn(tokens, (heads + 2 * kv_heads) * width + 4096, device="cuda", dtype=torch.float16)
        angles = torch.rand(tokens, 32, device="cuda") * 6
        pools = memory.pools(POOLS[self.pool], 2 * layers, (count, BLOCK, kv_heads, width))
        scale = torch.full((kv_heads,), 0.02, device="cuda")
        return Step(
            self,
            fused,
            addresses,
            AttentionForm(heads, kv_heads, width, width**-0.5),
            Rotary(angles.cos(), angles.sin(), True),
            CacheScales(scale, scale) if self.pool != "f16" else None,
            list(zip(pools[::2], pools[1::2], strict=False)) or [(pools[0], pools[0])],
        )


@dataclass
class Step:
    """The tensors of a case."""

    case: Case
    fused: Tensor
    addresses: Addresses
    form: AttentionForm
    rotary: Rotary
    scales: CacheScales | None
    pools: list[tuple[Tensor, ...]]

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        heads, kv_heads, width = FORMS[self.case.form]
        q, k, v, _ = self.fused.split([heads * width, kv_heads * width, kv_heads * width, 4096], -1)
        return q, k, v

    def run(self, layer: int, workspace: Workspace) -> Tensor:
        k_pool, v_pool = self.pools[layer]
        return attend(
            *self.parts(), k_pool, v_pool, self.addresses, self.form, self.rotary, None, self.scales,
            workspace=workspace,
        )  # fmt: skip

    def exact(self) -> Tensor:
        """The context in float64, over the pools as the kernels have written them."""
        heads, kv_heads, width = FORMS[self.case.form]
        factor = 1.0 if self.scales is None else 0.02
        length, new, batch = self.case.length, self.case.new, self.case.batch
        keys, values = (
            pool[self.addresses.tables.long()].view(batch, -1, kv_heads, width)[:, :length].double() * factor
            for pool in self.pools[0]
        )
        q = self.parts()[0].view(-1, heads, width).double()
        turning, rest = q[..., :64].unflatten(-1, (-1, 2)), q[..., 64:]
        cos, sin = (each[:, None].double() for each in self.rotary[:2])
        a, b = turning.unbind(-1)
        q = torch.cat([torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2), rest], -1)
        q = q.view(batch, new, heads, width)
        keys, values = (x.repeat_interleave(heads // kv_heads, 2) for x in (keys, values))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, keys) * width**-0.5
        seen = torch.arange(length, device="cuda") <= torch.arange(length - new, length, device="cuda")[:, None]
        probabilities = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        return torch.einsum("bhqk,bkhd->bqhd", probabilities, values).reshape(batch * new, heads * width)


DEFAULTS: dict[str, Any] = {
    "least": tiles._LEAST_SHARE,
    "waves": tiles._WAVES,
    "own": (tiles._UNROLL, tiles._WARPS, tiles._STAGES),
    "decode": attention.decode_tiles,
    "prefill": attention.prefill_tiles,
}


def compile_case(case: Case) -> str | None:
    """Compile what a case runs, in a process of its own; the compiled code is kept on disk. What failed, if it did."""
    try:
        case.set_up()
        case.step(Memory(2**24), 1, alone=True).run(0, Workspace())
        torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001 - it is reported, and the others go on
        return f"{case}: {type(error).__name__}: {str(error)[:200]}"
    return None


def compile_all(cases: Iterable[Case]) -> None:
    """Compile what cases run, in many processes."""
    workers = max(1, min(14, (os.cpu_count() or 2) - 1))
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for failure in pool.imap_unordered(compile_case, cases, chunksize=2):
            if failure:
                say("  cannot compile", failure)
    say(f"compiled after {time.time() - START:.0f} s")


def measure(case: Case, memory: Memory, peak: float) -> dict[str, Any]:
    """Time a case over pools that do not fit into the cache."""
    case.set_up()
    layers = max(2, min(48, int(4e8 / case.bytes))) if case.new == 1 else 4
    step, workspace = case.step(memory, layers), Workspace()
    micros = time_graph([partial(step.run, at, workspace) for at in range(len(step.pools))])
    result = {
        **asdict(case),
        "us": round(micros, 2),
        "share": round(case.bytes / micros * 1e6 / peak, 3),
        "tflops": round(case.operations / micros / 1e6, 1),
    }
    if case.batch * case.length <= 2048 and not case.beside:
        context, exact = step.run(0, workspace).double(), step.exact()
        result["error"] = f"{((context - exact).norm() / exact.norm()).item():.1e}"
    return result


def show(results: Iterable[dict[str, Any] | None], *columns: str) -> None:
    for result in results:
        if result:
            say("  " + "  ".join(f"{result.get(column, '')!s:>9}" for column in columns))


def attempt(case: Case, memory: Memory, peak: float) -> dict[str, Any] | None:
    try:
        return measure(case, memory, peak)
    except Exception as error:  # noqa: BLE001 - it is reported, and the others go on
        say(f"  FAILED {case}: {type(error).__name__}: {str(error)[:200]}")
        return None


def reference_prefill(case: Case) -> float:
    """Microseconds of torch's flash attention alone."""
    heads, _, width = FORMS[case.form]
    shape = (case.batch, heads, case.new, width)
    q, k, v = (torch.randn(shape, device="cuda", dtype=torch.float16) for _ in range(3))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return time_graph([lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)] * 4)


class _NoLaunch:
    """A kernel that does nothing."""

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def write_alone(case: Case, memory: Memory) -> float:
    """Microseconds of the part of a prompt's attention that turns queries and writes the cache."""
    kernel, attention.prefill = attention.prefill, _NoLaunch()
    try:
        step, workspace = case.step(memory, 4), Workspace()
        return time_graph([partial(step.run, at, workspace) for at in range(len(step.pools))])
    finally:
        attention.prefill = kernel


def norms(peak: float) -> list[dict[str, Any]]:
    """Times of `add_norm` of a residual, four float32 parts and a bias, and its error against float64."""
    results, width = [], 4096
    for tokens in (1, 8, 64, 2048):
        size = tokens * width * (4 * 4 + 2 * 3)
        copies = max(2, min(32, int(2e8 / size)))
        parts = [torch.randn(4, tokens, width, device="cuda") for _ in range(copies)]
        x = torch.randn(tokens, width, device="cuda").half()
        weight, bias = (torch.randn(width, device="cuda").half() for _ in range(2))
        for kind in ("layer_norm", "rms_norm"):
            calls = [
                partial(add_norm, x, [part], [bias], [Affine(weight, bias)], 1e-5, kind, sum_dtype=torch.float16)
                for part in parts
            ]
            micros = time_graph(calls)
            total, normed = calls[0]()
            exact = total.double()
            exact = exact - exact.mean(-1, keepdim=True) if kind == "layer_norm" else exact
            exact = exact / (exact.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double() + bias.double()
            error = ((normed.double() - exact).norm() / exact.norm()).item()
            _, second = add_norm(x, [parts[0]], [bias], [Affine(weight)], 1e-5, kind, sum_dtype=x.dtype)
            affines = [Affine(weight, bias), Affine(weight)]
            both = add_norm(x, [parts[0]], [bias], affines, 1e-5, kind, sum_dtype=x.dtype)
            rows = torch.tensor([tokens - 1, 0], dtype=torch.int32, device="cuda")
            (few,) = add_norm_of_rows(x, [parts[0]], [bias], [Affine(weight)], 1e-5, kind, sum_dtype=x.dtype, rows=rows)
            alike = torch.equal(both[1], normed) and torch.equal(both[2], second) and torch.equal(few, second[rows])
            summed = x.double() + parts[0].double().sum(0) + bias.double()
            results.append(
                {
                    "tokens": tokens,
                    "kind": kind,
                    "us": round(micros, 2),
                    "share": round(size / micros * 1e6 / peak, 3),
                    "alike": alike,
                    "error": f"{error:.1e}",
                    "sum error": f"{((total.double() - summed).norm() / summed.norm()).item():.1e}",
                }
            )
    return results


def check() -> int:
    """The tests' cases on the GPU; how many fail."""
    from tests.runtime.executors.cuda.attention_cases import gpu_cases

    failed = count = 0
    for options in gpu_cases():
        count += 1
        try:
            options.make().check(workspace=Workspace())
        except Exception as error:  # noqa: BLE001 - it is reported, and the others go on
            failed += 1
            at = traceback.extract_tb(error.__traceback__)[-1]
            say(f"  WRONG {options}: {type(error).__name__} {str(error)[:300]} [{Path(at.filename).name}:{at.lineno}]")
    say(f"{count - failed} of {count} cases are right, after {time.time() - START:.0f} s")
    return failed


def compile_check(options: Any) -> None:
    """Compile what a case of `check` runs, in a process of its own."""
    with contextlib.suppress(Exception):  # `check` reports it
        options.make().computed()


def tuning() -> list[Case]:
    """Cases with tiles other than the defaults."""
    own = ((4, 4, 1), (2, 4, 1), (8, 4, 1), (4, 2, 1), (8, 2, 1), (4, 8, 1), (2, 4, 2), (4, 4, 2), (2, 8, 1))
    decodes = [
        Case(form, pool, batch, past, tiles=tile)
        for form, pool, batch, past in (
            ("16x256", "f16", 1, 1023), ("16x256", "f16", 64, 255), ("16x256", "i8", 64, 255),
            ("16x256", "fp8", 64, 255), ("32x128", "f16", 8, 1023), ("32x128", "f16", 64, 255),
            ("32x128", "i8", 64, 255), ("32x80", "f16", 64, 255),
        )
        for tile in own
    ]  # fmt: skip
    shared = [
        Case("32/1x128", "f16", 64, 1023, tiles=tile)
        for tile in ((64, 4, 2), (32, 4, 2), (32, 4, 3), (64, 4, 3), (64, 8, 3), (128, 8, 2), (32, 4, 4))
    ]
    shares = [
        Case(form, "f16", batch, past, least=least, waves=waves)
        for form, batch, past in (
            ("16x256", 1, 255), ("16x256", 1, 1023), ("16x256", 1, 4095), ("16x256", 8, 255), ("32x128", 1, 1023),
            ("32x128", 8, 255), ("32/1x128", 1, 1023), ("32/1x128", 64, 1023),
        )
        for least in (16, 32, 64)
        for waves in (1, 2, 4, 8)
    ]  # fmt: skip
    prefills = [
        Case(form, pool, batch, 0, new, tiles=tile)
        for form, pool, batch, new in (
            ("16x256", "f16", 1, 2048), ("16x256", "f16", 1, 512), ("16x256", "i8", 1, 2048),
            ("32x128", "f16", 1, 2048), ("32x128", "f16", 1, 512), ("32x128", "f16", 8, 128),
        )
        for tile in ((64, 32, 4, 3), (64, 32, 4, 2), (64, 64, 4, 2), (64, 64, 4, 3), (64, 64, 4, 4), (128, 64, 8, 3),
                      (128, 64, 8, 2), (64, 32, 4, 4), (128, 128, 8, 2), (128, 32, 8, 3))
    ]  # fmt: skip
    return [*decodes, *shared, *shares, *prefills]


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
        os.environ[_APART] = "1"
    dependent.ENABLED = _APART not in os.environ
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


def tune() -> dict[str, Any]:
    """Time other tiles."""
    cases = tuning()
    compile_all(cases)
    memory, peak = Memory(FLAT_BYTES), bandwidth()
    say(f"bandwidth {peak / 1e12:.2f} TB/s")
    results = sorted(
        (each for case in cases if (each := attempt(case, memory, peak))),
        key=lambda each: (each["new"], each["form"], each["pool"], each["batch"], each["past"], each["us"]),
    )
    show(results, "form", "pool", "batch", "past", "new", "tiles", "least", "waves", "us", "share", "tflops", "error")
    return {"bandwidth": peak, "tuned": results}


if __name__ == "__main__":
    main()
