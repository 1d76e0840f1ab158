"""Products of activations with a weight that stays: `y = act(sum_i x_i W_i^T + b)`.

A weight is a grid of parts that are kept as one matrix: sections of the result beside each other (q, k, v and up of a
layer, say), columns for one input or for two (attention's context and the MLP's hidden values). Few rows are computed
by kernels that read a weight as it is stored (see `skinny`); many rows by cuBLAS (see `many_rows`). Activations may be
rounded to the 8 bits that the weight has; then integers are multiplied, or float8 numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from runtime.executors.cuda.kernels.columns import activate_columns, side_by_side
from runtime.executors.cuda.kernels.many_rows import multiply_many
from runtime.executors.cuda.kernels.precompile import Job, job
from runtime.executors.cuda.kernels.rounding import Rounded, adds_float8
from runtime.executors.cuda.kernels.skinny import gemv, skinny, summed
from runtime.executors.cuda.kernels.sliced import sliced
from runtime.executors.cuda.kernels.tuning import LEAST_TILE, MOST_ROWS, Case, Config, Tuning, bucket
from runtime.executors.cuda.kernels.weights import FLOAT8_BIAS, JoinedWeight, WeightPart, can_serve, join

__all__ = ["MOST_ROWS", "Product", "Rounded", "Section", "Tuning", "WeightPart", "can_serve"]

_LEAST_STEP = 32  # columns: a step of fewer is masked, if it can be
_MOST_SHARED = 512  # columns that share a scale: products of more are as fast as if all did
_MOST_EXACT = 1 << 17  # columns: the sum of fewer products of two int8 numbers is an int32
_MOST_FLOAT8 = 128  # columns whose products matrix instructions add up, with fewer bits than float32 has
_UNKNOWN = {"dot": ("SLICES",), "gemv": ("SLICES",), "sliced": ("SUB", "CHUNK", "SAME", "EVEN_K")}
_INTERPRETED = bool(triton.knobs.runtime.interpret)


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
    """A product with a weight that stays; see the module.

    Attributes:
        early: whether kernels start before the kernel in front of them has ended, and wait for it once their first
            reads are under way; on GPUs of compute capability 9.0 and more. False at first.
    """

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
        self._prepare(join(parts, dtype, device), sections, None if bias is None else bias.to(device, dtype), table)

    @classmethod
    def over(cls, weight: JoinedWeight, sections: Sequence[Section], bias: Tensor | None, table: Tuning) -> Product:
        """A product with a weight that is joined already, on its device; see `__init__` for the rest."""
        product = cls.__new__(cls)
        product._prepare(weight, sections, bias, table)
        return product

    def _prepare(self, weight: JoinedWeight, sections: Sequence[Section], bias: Tensor | None, table: Tuning) -> None:
        self.weight = weight
        self.bias = bias
        self.sections = tuple(sections)
        self.dtype = weight.dtype
        self.device = weight.q.device
        self.table = table
        self.early = False
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
        if rows == 0 or rows > MOST_ROWS:
            y = torch.empty(rows, self.weight.rows, dtype=self.dtype, device=self.device) if out is None else out
            if rows:
                multiply_many(xs, self.weight, self.bias, y)
                self._activate(y, self._runs)
            return y
        y = self.compute(self.launch(rows, rounded=_are_rounded(xs)), xs, out=out)
        self._activate(y, self._outside)
        return y

    def partial(self, xs: Activations) -> Tensor:
        """Float32 `[S, T, N]` that add up over `S >= 1` to the product without bias and activations."""
        rows, n = row_count(xs), self.weight.rows
        if 0 < rows <= MOST_ROWS:
            return self.compute(self.launch(rows, partial=True, rounded=_are_rounded(xs)), xs, partial=True)
        y = torch.empty(1, rows, n, device=self.device)
        if rows:
            multiply_many(xs, self.weight, None, y[0])
        return y

    def case(self, rows: int, partial: bool = False, rounded: bool = False) -> Case:
        """What launches for so many rows are chosen for."""
        weight = self.weight
        bits = 8 if rounded else 8 * self.dtype.itemsize
        group = 0 if weight.group == weight.k or weight.group > _MOST_SHARED else weight.group
        return Case(weight.form, bits, group, weight.rows, weight.k, bucket(rows), partial)

    def launch(self, rows: int, partial: bool = False, rounded: bool = False) -> Launch:
        """The launch for so many rows, at most `MOST_ROWS`; chosen once."""
        key = bucket(rows), partial, rounded
        if key not in self._launches:
            config = self.table.config(self.case(rows, partial, rounded))
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
        with torch.cuda.device_of(self.weight.q):
            for kernel, grid, arguments, constants in self._calls(launch, xs, y, parts, q):
                kernel[grid](*arguments, **constants)
        result = parts if y is None else y
        assert result is not None
        return result

    def jobs(self, launch: Launch, xs: Activations, partial: bool = False) -> list[Job]:
        """What is to be compiled for a launch."""
        rows, n = row_count(xs), self.weight.rows
        parts = torch.empty(launch.split, rows, n, device="meta") if partial or launch.split > 1 else None
        y = None if partial else torch.empty(rows, n, dtype=self.dtype, device="meta")
        calls = self._calls(launch, xs, y, parts)
        return [job(kernel, arguments, constants) for kernel, _, arguments, constants in calls]

    def _calls(
        self, launch: Launch, xs: Activations, y: Tensor | None, parts: Tensor | None, q: Tensor | None = None
    ) -> list[_Call]:
        """The kernels of a launch: one that writes `y` or parts of it; where there are both, one that sums parts up."""
        if parts is None:
            assert y is not None
            return [self._call(launch, xs, y, q, self._end)]
        first = self._call(launch, xs, parts, q, _NO_EPILOGUE)
        return [first] if y is None else [first, _sum_call(parts, y, self._end, self.early)]

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
        constants |= _start(self.early)
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
    unit = 1.0
    if weight.form == "float8":
        unit = 1 / FLOAT8_BIAS if weight.dtype is torch.float16 else 1.0
        if not adds_float8(values[0].device, weight.dtype):
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


def fit(config: Config, weight: JoinedWeight, rows: int, rounded: bool = False) -> Launch:
    """A configuration as a weight can use it: steps that divide its columns, parts that are whole steps."""
    if (rows > 1 or rounded) and config.kind == "gemv":
        config = config._replace(kind="dot", bn=64, bk=128)
    if config.kind == "sliced" and (rounded or not _can_slice(config, weight)):
        config = config._replace(kind="dot", bn=64, bk=128, warps=4)
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
        if rounded and (pair or part_k >= _MOST_EXACT):
            scale = 2
    half = weight.chunk // 2
    block = half or bk
    sub = min(block, weight.group & -weight.group) if scale == 2 and not one_scale else block
    if rounded and weight.form == "float8":
        sub = min(sub, _MOST_FLOAT8)
    constants = {
        "FORM": weight.form,
        "PAIR": pair,
        "SCALE": scale,
        "ZERO": weight.zero is not None,
        "GROUP": 0 if one_scale else weight.group,
        "BN": config.bn,
        "BK": bk,
        "SUB": sub,
        "CHUNK": weight.chunk,
        "SLICES": config.warps,
        "SAME": half > 0 and weight.group % weight.chunk == 0,
        "EVEN_N": weight.rows % config.bn == 0,
        "EVEN_K": k % bk == 0,
        "NATIVE": not _INTERPRETED,
        "PART": part_k if _INTERPRETED else 0,
    }
    return Launch(config, bk, split, part_k, constants)


def _start(early: bool) -> dict[str, Any]:
    """The constants of a kernel that starts before the one in front of it has ended, or does not."""
    return {"EARLY": True, "launch_pdl": True} if early else {"EARLY": False}


def _can_slice(config: Config, weight: JoinedWeight) -> bool:
    """Whether all slices are whole, and the columns of each share a scale."""
    width = config.bk // config.warps
    whole = not any(columns % config.bk for columns in weight.columns)
    one_scale = weight.group == 0 or weight.group % width == 0
    return whole and one_scale and (width == weight.chunk if weight.chunk else width >= _LEAST_STEP)


def _sum_call(parts: Tensor, y: Tensor, end: _Epilogue, early: bool) -> _Call:
    count, rows, n = parts.shape
    arguments = (parts, *_or(parts, end.bias), y, rows, n)
    constants = {"S": count, "S2": triton.next_power_of_2(count), **end.constants(), "BN": 256, **_start(early)}
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
