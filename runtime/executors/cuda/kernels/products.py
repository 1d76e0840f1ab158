"""Products of activations with a weight that stays: `y = act(sum_i x_i W_i^T + b)`.

A weight is a grid of parts that are kept as one matrix: sections of the result beside each other (q, k, v and up of a
layer, say), columns for one input or for two (attention's context and the MLP's hidden values). Few rows are computed
by kernels that read a weight as it is stored (see `skinny`); many rows by cuBLAS, from quantized weights by way of a
buffer that holds some rows of the weight at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from runtime.executors.cuda.kernels.dequantize import dequantize
from runtime.executors.cuda.kernels.precompile import Job, job
from runtime.executors.cuda.kernels.skinny import gemv, skinny, summed
from runtime.executors.cuda.kernels.tuning import MOST_ROWS, Case, Config, Tuning, bucket
from runtime.executors.cuda.kernels.weights import DENSE, JoinedWeight, WeightPart, can_serve, join

__all__ = ["MOST_ROWS", "Product", "Section", "Tuning", "WeightPart", "can_serve"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": partial(torch.nn.functional.gelu, approximate="tanh"),
    "silu": torch.nn.functional.silu,
}
_BUFFER_BYTES = 1 << 26
_LEAST_STEP = 32  # columns: a step of fewer is masked, if it can be
_MOST_SHARED = 512  # columns that share a scale: products of more are as fast as if all did
_INTERPRETED = bool(triton.knobs.runtime.interpret)


class Section(NamedTuple):
    """Some consecutive columns of a product.

    Attributes:
        size: how many.
        activation: None, "relu", "gelu" (by erf), "gelu_tanh" or "silu".
    """

    size: int
    activation: str | None


class _Run(NamedTuple):
    """Consecutive columns with one activation."""

    activation: str
    start: int
    stop: int


class Launch(NamedTuple):
    """A configuration that fits a product, and what follows from it."""

    config: Config
    bk: int
    split: int
    part_k: int
    constants: dict[str, Any]


class Product:
    """A product with a weight that stays; see the module."""

    def __init__(
        self,
        parts: Sequence[Sequence[WeightPart]],
        sections: Sequence[Section],
        bias: Tensor | None,
        dtype: torch.dtype,
        device: torch.device,
        table: Tuning,
    ) -> None:
        """Join the weight and move it to the device.

        Args:
            parts: `parts[j][i]` is `[sections[j].size, K_i]`; one input or two, all parts stored in the same way;
                a grid that `can_serve` has no word against.
            sections: the columns of the result.
            bias: `[N]`, or None.
            dtype: the type of the activations and of the result: float16, bfloat16 or float32.
            device: where the product is computed.
            table: which launches to use.
        """
        self.weight = join(parts, dtype, device)
        self.bias = None if bias is None else bias.to(device, dtype)
        self.sections = tuple(sections)
        self.dtype = dtype
        self.device = device
        self.table = table
        self._runs = _runs(sections)
        self._launches: dict[tuple[int, bool], Launch] = {}
        # Kernels apply one activation to one run of columns; what is more is left to torch.
        self._outside = self._runs if len(self._runs) > 1 else ()
        self._end = _Epilogue(self.bias, self._runs[0] if len(self._runs) == 1 else None)

    @property
    def nbytes(self) -> int:
        """Bytes of the weight and the bias."""
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def __call__(self, xs: Sequence[Tensor]) -> Tensor:
        """The result `[T, N]`, for `xs[i] [T, K_i]` whose elements of a row are contiguous."""
        rows = xs[0].shape[0]
        if rows == 0 or rows > MOST_ROWS:
            y = torch.empty(rows, self.weight.rows, dtype=self.dtype, device=self.device)
            if rows:
                self._multiply_many(xs, y)
                self._activate(y, self._runs)
            return y
        y = self.compute(self.launch(rows), xs)
        self._activate(y, self._outside)
        return y

    def partial(self, xs: Sequence[Tensor]) -> Tensor:
        """Float32 `[S, T, N]` that add up over `S >= 1` to the product without bias and activations."""
        rows, n = xs[0].shape[0], self.weight.rows
        if 0 < rows <= MOST_ROWS:
            return self.compute(self.launch(rows, partial=True), xs, partial=True)
        y = torch.empty(1, rows, n, device=self.device)
        if rows:
            self._multiply_many(xs, y[0], with_bias=False)
        return y

    def case(self, rows: int, partial: bool = False) -> Case:
        """What launches for so many rows are chosen for."""
        weight = self.weight
        group = 0 if weight.group == weight.k or weight.group > _MOST_SHARED else weight.group
        return Case(weight.form, 8 * self.dtype.itemsize, group, weight.rows, weight.k, bucket(rows), partial)

    def launch(self, rows: int, partial: bool = False) -> Launch:
        """The launch for so many rows, at most `MOST_ROWS`; chosen once."""
        key = bucket(rows), partial
        if key not in self._launches:
            self._launches[key] = fit(self.table.config(self.case(rows, partial)), self.weight, rows)
        return self._launches[key]

    def forget_launches(self) -> None:
        """Choose launches anew, from a table that has changed."""
        self._launches.clear()

    def compute(self, launch: Launch, xs: Sequence[Tensor], partial: bool = False, q: Tensor | None = None) -> Tensor:
        """The product by a launch, `[T, N]` or, if partial, its parts; `q` stands in for the values of the weight."""
        rows, n = xs[0].shape[0], self.weight.rows
        parts = torch.empty(launch.split, rows, n, device=self.device) if partial or launch.split > 1 else None
        y = None if partial else torch.empty(rows, n, dtype=self.dtype, device=self.device)
        with torch.cuda.device_of(xs[0]):
            for kernel, grid, arguments, constants in self._calls(launch, xs, y, parts, q):
                kernel[grid](*arguments, **constants)
        result = parts if y is None else y
        assert result is not None
        return result

    def jobs(self, launch: Launch, xs: Sequence[Tensor], partial: bool = False) -> list[Job]:
        """What is to be compiled for a launch."""
        rows, n = xs[0].shape[0], self.weight.rows
        parts = torch.empty(launch.split, rows, n, device="meta") if partial or launch.split > 1 else None
        y = None if partial else torch.empty(rows, n, dtype=self.dtype, device="meta")
        calls = self._calls(launch, xs, y, parts)
        return [job(kernel, arguments, constants) for kernel, _, arguments, constants in calls]

    def _calls(
        self, launch: Launch, xs: Sequence[Tensor], y: Tensor | None, parts: Tensor | None, q: Tensor | None = None
    ) -> list[_Call]:
        """The kernels of a launch: one that writes `y` or parts of it; where there are both, one that sums parts up."""
        if parts is None:
            assert y is not None
            return [self._call(launch, xs, y, q, self._end)]
        first = self._call(launch, xs, parts, q, _NO_EPILOGUE)
        return [first] if y is None else [first, _sum_call(parts, y, self._end)]

    def _call(self, launch: Launch, xs: Sequence[Tensor], y: Tensor, q: Tensor | None, end: _Epilogue) -> _Call:
        weight = self.weight
        columns = weight.columns
        if len(xs) == 2 and not launch.constants["PAIR"]:
            xs = [torch.cat(list(xs), 1)]
            columns = (weight.k,)
        x0, x1 = xs[0], xs[-1]
        rows = x0.shape[0]
        config = launch.config
        q = weight.q if q is None else q
        operands = (x0, x1, q, *_or(q, weight.scale, weight.zero, end.bias), y)
        sizes = (weight.rows, weight.k, columns[0])
        tail = (launch.part_k, weight.group or weight.k)
        constants = {**launch.constants, **end.constants(), "num_warps": config.warps, "num_stages": config.stages}
        grid = (triton.cdiv(weight.rows, config.bn), launch.split)
        if config.kind == "gemv":
            return _Call(gemv, grid, (*operands, *sizes, *tail), constants)
        strides = (x0.stride(0), x1.stride(0))
        constants["BM"] = max(16, bucket(rows))
        return _Call(skinny, grid, (*operands, rows, *sizes, *strides, *tail), constants)

    def _multiply_many(self, xs: Sequence[Tensor], y: Tensor, with_bias: bool = True) -> None:
        x = xs[0] if len(xs) == 1 else torch.cat(list(xs), 1)
        bias = self.bias if with_bias else None
        if self.weight.form == DENSE:
            _multiply(x, self.weight.q, bias, y)
            return
        buffer = _buffer(self.device, self.dtype)
        step = max(1, buffer.numel() // self.weight.k)
        for first in range(0, self.weight.rows, step):
            size = min(step, self.weight.rows - first)
            tile = buffer[: size * self.weight.k].view(size, self.weight.k)
            dequantize_rows(self.weight, first, tile)
            here = slice(first, first + size)
            _multiply(x, tile, None if bias is None else bias[here], y[:, here])

    def _activate(self, y: Tensor, runs: Sequence[_Run]) -> None:
        for run in runs:
            y[:, run.start : run.stop] = ACTIVATIONS[run.activation](y[:, run.start : run.stop])


class _Epilogue(NamedTuple):
    bias: Tensor | None
    run: _Run | None

    def constants(self) -> dict[str, Any]:
        activation, start, stop = self.run or (None, 0, 0)
        return {"BIAS": self.bias is not None, "ACT": activation, "ACT_FROM": start, "ACT_TO": stop}


_NO_EPILOGUE = _Epilogue(None, None)


class _Call(NamedTuple):
    """A kernel and what it is called with."""

    kernel: Any
    grid: tuple[int, int]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]


def fit(config: Config, weight: JoinedWeight, rows: int) -> Launch:
    """A configuration as a weight can use it: steps that divide its columns, parts that are whole steps."""
    if rows > 1 and config.kind == "gemv":
        config = config._replace(kind="dot", bn=64, bk=128)
    k = weight.k
    bk = max(config.bk, weight.chunk)
    while bk > 16 and any(columns % bk for columns in weight.columns):
        bk //= 2
    pair = len(weight.columns) == 2
    one_scale = weight.group in (0, k)
    if bk < _LEAST_STEP and one_scale and weight.form != "int4":  # the last step is masked
        bk = max(16, min(config.bk, triton.next_power_of_2(k)))
        pair = pair and not any(columns % bk for columns in weight.columns)
    steps = -(-k // bk)
    split = max(1, min(config.split, steps))
    if k % bk == 0:
        while steps % split:
            split -= 1
    part_k = -(-steps // split) * bk
    split = -(-k // part_k)
    if weight.scale is None:
        scale = 0
    else:
        scale = 1 if one_scale or weight.group % part_k == 0 else 2
    half = weight.chunk // 2
    block = half or bk
    sub = min(block, weight.group & -weight.group) if scale == 2 else block
    constants = {
        "FORM": weight.form,
        "PAIR": pair,
        "SCALE": scale,
        "ZERO": weight.zero is not None,
        "BN": config.bn,
        "BK": bk,
        "SUB": sub,
        "CHUNK": weight.chunk,
        "SAME": half > 0 and weight.group % weight.chunk == 0,
        "EVEN_N": weight.rows % config.bn == 0,
        "EVEN_K": k % bk == 0,
        "NATIVE": not _INTERPRETED,
        "PART": part_k if _INTERPRETED else 0,
    }
    return Launch(config, bk, split, part_k, constants)


def dequantize_rows(weight: JoinedWeight, first: int, out: Tensor) -> None:
    """Write rows of a quantized weight, from `first` on, to `out [size, K]`."""
    size, k = out.shape
    bn, bk = (32, weight.chunk) if weight.chunk else (16, 256)
    grid = (triton.cdiv(size, bn), triton.cdiv(k, bk))
    q, scale, zero = weight.q, *_or(weight.q, weight.scale, weight.zero)
    with torch.cuda.device_of(out):
        dequantize[grid](
            q, scale, zero, out, first, size, weight.rows, k, weight.group,
            FORM=weight.form, ZERO=weight.zero is not None, BN=bn, BK=bk, NATIVE=not _INTERPRETED,
        )  # fmt: skip


def _sum_call(parts: Tensor, y: Tensor, end: _Epilogue) -> _Call:
    count, rows, n = parts.shape
    arguments = (parts, *_or(parts, end.bias), y, rows, n)
    constants = {"S": count, "S2": triton.next_power_of_2(count), **end.constants(), "BN": 256}
    return _Call(summed, (triton.cdiv(n, 256), rows), arguments, constants)


def _or(stand_in: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Tensors for a kernel's pointers; those that it does not read are another."""
    return tuple(stand_in if tensor is None else tensor for tensor in tensors)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
    """Write `x @ weight.T + bias` to `y`, whose type may be wider than theirs."""
    if y.dtype is x.dtype and bias is not None:
        torch.addmm(bias, x, weight.t(), out=y)
    elif y.dtype is x.dtype:
        torch.mm(x, weight.t(), out=y)
    elif y.device.type == "cuda":
        y.copy_(torch.mm(x, weight.t(), out_dtype=y.dtype))
    else:
        torch.mm(x.to(y.dtype), weight.t().to(y.dtype), out=y)


@cache
def _buffer(device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.empty(_BUFFER_BYTES // dtype.itemsize, dtype=dtype, device=device)


def _runs(sections: Sequence[Section]) -> tuple[_Run, ...]:
    runs: list[_Run] = []
    start = 0
    for size, activation in sections:
        if activation is not None:
            if runs and runs[-1].activation == activation and runs[-1].stop == start:
                runs[-1] = runs[-1]._replace(stop=start + size)
            else:
                runs.append(_Run(activation, start, start + size))
        start += size
    return tuple(runs)
