"""Products of activations with a weight that stays: `y = act(sum_i x_i W_i^T + b)`.

A weight is a grid of parts that are kept as one matrix: sections of the result beside each other (q, k, v and up of a
layer, say), columns for one input or for two (attention's context and the MLP's hidden values). Few rows are computed
by kernels that read a weight as it is stored (see `skinny` and, for more rows of quantized weights, `wide`); many rows
by cuBLAS (see `many_rows`). Activations may be rounded to the 8 bits that the weight has; then integers are multiplied,
or float8 numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from runtime.executors.cuda.kernels.columns import activate_columns, side_by_side
from runtime.executors.cuda.kernels.launches import Launch, can_tile, fit
from runtime.executors.cuda.kernels.many_rows import multiply_many
from runtime.executors.cuda.kernels.precompile import Job, job
from runtime.executors.cuda.kernels.rounding import Rounded, adds_float8
from runtime.executors.cuda.kernels.skinny import gemv, skinny, summed
from runtime.executors.cuda.kernels.sliced import sliced
from runtime.executors.cuda.kernels.tuning import (
    BY_LIBRARY,
    LEAST_TILE,
    LIBRARY,
    MOST_ROWS,
    MOST_TILED,
    Case,
    Tuning,
    bucket,
)
from runtime.executors.cuda.kernels.weights import FLOAT8_BIAS, JoinedWeight, WeightPart, can_serve, join
from runtime.executors.cuda.kernels.wide import arranged, wide
from runtime.executors.cuda.kernels.wide_rounded import wide_rounded

__all__ = ["MOST_ROWS", "Product", "Rounded", "Section", "Tuning", "Use", "WeightPart", "can_serve"]

_MOST_SHARED = 512  # columns that share a scale: products of more are as fast as if all did
_UNKNOWN = {"dot": ("SLICES",), "gemv": ("SLICES",), "sliced": ("SUB", "CHUNK", "SAME", "EVEN_K")}


Activations = Sequence[Tensor | Rounded]
"""The inputs of a product; all are rounded, or none."""


class Section(NamedTuple):
    """Some consecutive columns of a product.

    Attributes:
        size: how many.
        activation: None, "relu", "gelu" (by erf), "gelu_tanh" or "silu".
    """

    size: int
    activation: str | None


class Use(NamedTuple):
    """How a product is called.

    Attributes:
        partial: whether by `Product.partial`, for few rows.
        rounded: whether with activations that are rounded, each row with a scale of its own.
    """

    partial: bool = False
    rounded: bool = False


class _Run(NamedTuple):
    """Consecutive columns with one activation."""

    activation: str
    start: int
    stop: int


class Product:
    """A product with a weight that stays; see the module.

    Attributes:
        use: how it is called.
    """

    def __init__(
        self,
        parts: Sequence[Sequence[WeightPart]],
        sections: Sequence[Section],
        bias: Tensor | None,
        dtype: torch.dtype,
        device: torch.device,
        table: Tuning,
        use: Use | None = None,
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
            use: how it will be called, if it is not as by default.
        """
        bias = None if bias is None else bias.to(device, dtype)
        self._prepare(join(parts, dtype, device), sections, bias, table, use or Use())

    @classmethod
    def over(cls, weight: JoinedWeight, sections: Sequence[Section], bias: Tensor | None, table: Tuning) -> Product:
        """A product with a weight that is joined already, on its device; see `__init__` for the rest."""
        product = cls.__new__(cls)
        product._prepare(weight, sections, bias, table, Use())
        return product

    def _prepare(
        self, weight: JoinedWeight, sections: Sequence[Section], bias: Tensor | None, table: Tuning, use: Use
    ) -> None:
        self.weight = weight
        self.bias = bias
        self.sections = tuple(sections)
        self.dtype = weight.dtype
        self.device = weight.q.device
        self.table = table
        self.use = use
        self._runs = _runs(sections)
        self._launches: dict[tuple[int, bool, bool], Launch] = {}
        # Kernels apply one activation to one run of columns; what is more is left to torch.
        self._outside = self._runs if len(self._runs) > 1 else ()
        self._end = _Epilogue(self.bias, self._runs[0] if len(self._runs) == 1 else None)

    @property
    def nbytes(self) -> int:
        """Bytes of the weight and the bias."""
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def __call__(self, xs: Activations, out: Tensor | None = None) -> Tensor:
        """The result `[T, N]`, for `xs[i] [T, K_i]` whose elements of a row are contiguous.

        Rounded activations are of the type that `weight.rounded` says. The result is written to `out`, if it is given:
        a contiguous tensor of its type.
        """
        rows = row_count(xs)
        if rows == 0:
            return torch.empty(0, self.weight.rows, dtype=self.dtype, device=self.device) if out is None else out
        y = self.compute(self.launch(rows, rounded=_are_rounded(xs)), xs, out=out)
        self._activate(y, self._outside)
        return y

    def partial(self, xs: Activations) -> Tensor:
        """Float32 `[S, T, N]` that add up over `S >= 1` to the product without bias and activations."""
        rows = row_count(xs)
        if rows == 0:
            return torch.empty(1, 0, self.weight.rows, device=self.device)
        return self.compute(self.launch(rows, partial=True, rounded=_are_rounded(xs)), xs, partial=True)

    def has_kernel(self, xs: Activations) -> bool:
        """Whether a kernel that reads the weight as it is stored computes the product with such activations."""
        rows = row_count(xs)
        return rows > 0 and self.launch(rows, rounded=_are_rounded(xs)).config.kind != LIBRARY

    def case(self, rows: int, partial: bool = False, rounded: bool = False) -> Case:
        """What launches for so many rows are chosen for."""
        weight = self.weight
        bits = 8 if rounded else 8 * self.dtype.itemsize
        group = 0 if weight.group == weight.k or weight.group > _MOST_SHARED else weight.group
        return Case(weight.form, bits, group, weight.rows, weight.k, bucket(rows), partial)

    def launch(self, rows: int, partial: bool = False, rounded: bool = False) -> Launch:
        """The launch for so many rows, at least one; chosen once."""
        tiled = can_tile(self.weight, rounded)
        if rows > (MOST_TILED if tiled else MOST_ROWS) and not (tiled and rounded):
            return fit(BY_LIBRARY, self.weight, rows, rounded)
        many = rows > MOST_TILED
        rows = min(rows, MOST_TILED)
        key = bucket(rows) + many, partial, rounded
        if key not in self._launches:
            config = self.table.config(self.case(rows, partial, rounded))
            config = config._replace(split=1) if many else config  # so many rows fill a GPU
            self._launches[key] = fit(config, self.weight, rows, rounded)
        return self._launches[key]

    def forget_launches(self) -> None:
        """Choose launches anew, from a table that has changed."""
        self._launches.clear()

    def compute(
        self,
        launch: Launch,
        xs: Activations,
        partial: bool = False,
        q: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """The product by a launch, `[T, N]` or, if partial, its parts.

        Args:
            launch: how it is computed.
            xs: the activations.
            partial: whether the parts are left to the caller.
            q: stands in for the values of the weight.
            out: where to write the product; a new tensor if None.
        """
        rows, n = row_count(xs), self.weight.rows
        parts = torch.empty(launch.split, rows, n, device=self.device) if partial or launch.split > 1 else None
        y = None if partial else out
        if y is None and not partial:
            y = torch.empty(rows, n, dtype=self.dtype, device=self.device)
        if launch.config.kind == LIBRARY:
            return self._by_library(xs, y, parts, q)
        with torch.cuda.device_of(self.weight.q):
            for kernel, grid, arguments, constants in self._calls(launch, xs, y, parts, q):
                kernel[grid](*arguments, **constants)
        result = parts if y is None else y
        assert result is not None
        return result

    def _by_library(self, xs: Activations, y: Tensor | None, parts: Tensor | None, q: Tensor | None) -> Tensor:
        weight = self.weight if q is None else replace(self.weight, q=q)
        if y is None:
            assert parts is not None
            multiply_many(xs, weight, None, parts[0])
            return parts
        multiply_many(xs, weight, self.bias, y)
        self._activate(y, () if self._end.run is None else (self._end.run,))
        return y

    def examples(self, rows: int) -> list[Tensor | Rounded]:
        """Activations without memory, as those that it is called with."""
        shapes = [(rows, k) for k in self.weight.columns]
        if not self.use.rounded:
            return [torch.empty(shape, dtype=self.dtype, device="meta") for shape in shapes]
        narrow = [torch.empty(shape, dtype=self.weight.rounded, device="meta") for shape in shapes]
        return [Rounded(q, torch.empty(rows, 1, device="meta")) for q in narrow]

    def jobs(self, launch: Launch, xs: Activations, partial: bool = False) -> list[Job]:
        """What is to be compiled for a launch; nothing for that of a library."""
        if launch.config.kind == LIBRARY:
            return []
        rows, n = row_count(xs), self.weight.rows
        parts = torch.empty(launch.split, rows, n, device="meta") if partial or launch.split > 1 else None
        y = None if partial else torch.empty(rows, n, dtype=self.dtype, device="meta")
        calls = self._calls(launch, xs, y, parts)
        return [job(kernel, arguments, constants) for kernel, _, arguments, constants in calls]

    def _calls(
        self, launch: Launch, xs: Activations, y: Tensor | None, parts: Tensor | None, q: Tensor | None = None
    ) -> list[_Call]:
        """The kernels of a launch: the last writes `y` or its parts; where there are both, one sums these up."""
        wide = self._wide_rounded if _are_rounded(xs) else self._wide
        calls = wide if launch.config.kind == "wide" else self._narrow
        if parts is None:
            assert y is not None
            return calls(launch, xs, y, q, self._end)
        first = calls(launch, xs, parts, q, _NO_EPILOGUE)
        return first if y is None else [*first, _sum_call(parts, y, self._end)]

    def _wide(self, launch: Launch, xs: Activations, y: Tensor, q: Tensor | None, end: _Epilogue) -> list[_Call]:
        """Activations in the order of `wide`, and the product by it."""
        weight, config = self.weight, launch.config
        words = (weight.q if q is None else q).view(torch.int32)
        values = _inputs(xs, weight, pair=True).values
        x0, x1 = values[0], values[-1]
        rows, k, constants = len(x0), weight.k, launch.constants
        tiles = triton.cdiv(rows, config.bm)
        x = torch.empty(tiles * config.bm, k, dtype=x0.dtype, device=y.device)
        order = {"PAIR": len(values) == 2, "U": constants["U"], "BLOCK": 1024}
        sizes = (rows, k, x0.shape[1], x0.stride(0), x1.stride(0))
        first = _Call(arranged, (triton.cdiv(k, 1024), len(x)), (x0, x1, x, *sizes), order)
        operands = (x, words, *_or(words, weight.scale, weight.zero, end.bias), y, rows, weight.rows, k, launch.part_k)
        options = {"num_warps": config.warps, "num_stages": config.stages}
        grid = (tiles * triton.cdiv(weight.rows, config.bn), launch.split)
        return [first, _Call(wide, grid, operands, {**constants, **end.constants(), **options})]

    def _wide_rounded(
        self, launch: Launch, xs: Activations, y: Tensor, q: Tensor | None, end: _Epilogue
    ) -> list[_Call]:
        """Tiles of rounded rows."""
        weight, config = self.weight, launch.config
        q = weight.q if q is None else q
        given = _inputs(xs, weight, pair=True)
        x0, x1, s0, s1 = given.values[0], given.values[-1], given.scales[0], given.scales[-1]
        assert weight.scale is not None and s0 is not None and s1 is not None
        of_weight = weight.scale[0], weight.scale[(weight.k - weight.columns[-1]) // weight.group]
        operands = (x0, x1, s0, s1, q, *of_weight, *_or(q, end.bias), y)
        sizes = (len(x0), weight.rows, weight.k, x0.shape[1], x0.stride(0), x1.stride(0))
        apart = (int(s0.numel() > 1), int(s1.numel() > 1))
        grid = (triton.cdiv(len(x0), config.bm) * triton.cdiv(weight.rows, config.bn), launch.split)
        options = {"num_warps": config.warps, "num_stages": config.stages}
        constants = {**launch.constants, **end.constants(), **options}
        return [_Call(wide_rounded, grid, (*operands, *sizes, *apart, launch.part_k, launch.whole_k), constants)]

    def _narrow(self, launch: Launch, xs: Activations, y: Tensor, q: Tensor | None, end: _Epilogue) -> list[_Call]:
        return [self._call(launch, xs, y, q, end)]

    def _call(self, launch: Launch, xs: Activations, y: Tensor, q: Tensor | None, end: _Epilogue) -> _Call:
        weight, config = self.weight, launch.config
        q = weight.q if q is None else q
        given = _inputs(xs, weight, launch.constants["PAIR"])
        if given.values[0].dtype is torch.float8_e4m3fn:
            q = q.view(torch.float8_e4m3fn)
        x0, x1 = given.values[0], given.values[-1]
        operands = (q, *_or(q, weight.scale, weight.zero, end.bias), y)
        sizes = (weight.rows, weight.k, x0.shape[1])
        constants = {**launch.constants, **end.constants(), "num_warps": config.warps, "num_stages": config.stages}
        grid = (triton.cdiv(weight.rows, config.bn), launch.split)
        constants = {k: v for k, v in constants.items() if k not in _UNKNOWN[config.kind]}
        if config.kind == "gemv":
            return _Call(gemv, grid, (x0, x1, *operands, *sizes, launch.part_k), constants)
        scales = [_or(x0, scale)[0] for scale in (given.scales[0], given.scales[-1])]
        strides = (x0.stride(0), x1.stride(0), *(int(scale.numel() > 1) for scale in scales))
        rows = x0.shape[0]
        # There are no instructions that multiply float8 numbers and fewer rows.
        least = 2 * LEAST_TILE if q.dtype is torch.float8_e4m3fn else LEAST_TILE
        constants["BM"] = max(least, bucket(rows))
        if config.kind == "sliced":
            return _Call(sliced, grid, (x0, x1, *operands, rows, *sizes, *strides[:2], launch.part_k), constants)
        constants |= {"ROUNDED": given.scales[0] is not None, "UNIT": given.unit}
        return _Call(skinny, grid, (x0, x1, *scales, *operands, rows, *sizes, *strides, launch.part_k), constants)

    def _activate(self, y: Tensor, runs: Sequence[_Run]) -> None:
        for run in runs:
            activate_columns(y[:, run.start : run.stop], run.activation)


def row_count(xs: Activations) -> int:
    """How many rows activations have."""
    x = xs[0]
    return len(x.q if isinstance(x, Rounded) else x)


def _are_rounded(xs: Activations) -> bool:
    return isinstance(xs[0], Rounded)


class _Inputs(NamedTuple):
    """The inputs of a kernel.

    Attributes:
        values: `[T, K_i]`.
        scales: of rounded values.
        unit: what scales are in units of.
    """

    values: Sequence[Tensor]
    scales: Sequence[Tensor | None]
    unit: float


def _inputs(xs: Activations, weight: JoinedWeight, pair: bool) -> _Inputs:
    """Activations as a kernel takes them; two inputs are joined if it does not take two."""
    rounded = [x for x in xs if isinstance(x, Rounded)]
    values = [x.q if isinstance(x, Rounded) else x for x in xs]
    if not rounded:
        return _Inputs(values if pair else [side_by_side(values)], [None], 1.0)
    assert pair or len(xs) == 1
    unit = weight.unit
    if weight.form == "float8" and not adds_float8(values[0].device, weight.dtype):
        values = [value.view(torch.uint8) for value in values]
        unit *= FLOAT8_BIAS**2  # both sides are float16 then
    return _Inputs(values, [x.scale for x in rounded], unit)


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


def _sum_call(parts: Tensor, y: Tensor, end: _Epilogue) -> _Call:
    count, rows, n = parts.shape
    arguments = (parts, *_or(parts, end.bias), y, rows, n)
    constants = {"S": count, "S2": triton.next_power_of_2(count), **end.constants(), "BN": 256}
    return _Call(summed, (triton.cdiv(n, 256), rows), arguments, constants)


def _or(stand_in: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Tensors for a kernel's pointers; those that it does not read are another."""
    return tuple(stand_in if tensor is None else tensor for tensor in tensors)


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
