"""Weights of products as the kernels read them: parts joined to one matrix, int4 in the order of wide reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.evaluators.quant import broadcast_blocks
from compiler.ir.int4 import chunk_int4, chunk_of
from runtime.executors.torch.packed import PackedWeight

WeightPart = Tensor | PackedWeight
"""A weight `[n, k]`."""

DENSE = "dense"
FORMS = {DType.i8: "int8", DType.i4: "int4", DType.f8e4m3: "float8"}
"""How a weight is stored; the other form is `DENSE`: floats of the type of the activations."""

LEAST_GROUP = 32
"""Columns that share a scale: a multiple of this."""
_MOST_ZERO = 100  # of int4: beside it, 8 and the offset of a conversion, bfloat16 still holds every integer
FLOAT8_BIAS = 256.0
"""By what float8 that moved to where float16 has the same bits is too small."""
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class JoinedWeight:
    """A weight `[N, K]`, whose columns are those of one input or of two, one behind the other.

    Attributes:
        form: "dense", "int8", "int4" or "float8".
        q: `[N, K]`; int4 is bytes `[K / chunk, N, chunk / 2]` (uint8), the low half of byte `j` of a chunk being column
            `j` with 8 added, the high half column `j + chunk / 2`. Float8 is its bytes (uint8).
        scale: float32 `[K / group, N]`; None of a dense weight. Of float8 beside float16 activations it is 256 times
            what it was, as the kernels' conversion is by that much too small.
        zero: int8 of the scale's shape, or None.
        group: how many columns share a scale; 0 of a dense weight.
        chunk: see `q`; 0 where it is not int4.
        rows: N.
        columns: the columns of each input.
        dtype: the type of the activations, before these are rounded.
        whole: whether all columns of an input share a scale, and there is no zero point.
    """

    form: str
    q: Tensor
    scale: Tensor | None
    zero: Tensor | None
    group: int
    chunk: int
    rows: int
    columns: tuple[int, ...]
    dtype: torch.dtype
    whole: bool

    @property
    def k(self) -> int:
        """Columns of all inputs."""
        return sum(self.columns)

    @property
    def rounded(self) -> torch.dtype | None:
        """The type of rounded activations that the weight is multiplied by as such; None if there is none."""
        types = {"int8": torch.int8, "float8": torch.float8_e4m3fn}
        return types.get(self.form) if self.zero is None else None

    @property
    def unit(self) -> float:
        """What the scales are multiplied with beside rounded activations."""
        return 1 / FLOAT8_BIAS if self.form == "float8" and self.dtype is torch.float16 else 1.0

    @property
    def nbytes(self) -> int:
        """Bytes of all that a product reads of it."""
        return sum(t.nbytes for t in (self.q, self.scale, self.zero) if t is not None)


def form_of(part: WeightPart) -> str:
    """How a part is stored."""
    return FORMS.get(part.dtype, str(part.dtype)) if isinstance(part, PackedWeight) else DENSE


def can_serve(parts: Sequence[Sequence[WeightPart]]) -> str | None:
    """Why the kernels cannot multiply by a grid of weights, rows being columns of the result; None if they can."""
    forms = {form_of(part) for row in parts for part in row}
    if len(forms) > 1:
        return f"its parts are stored in different ways ({', '.join(sorted(forms))})"
    if not forms <= {DENSE, *FORMS.values()}:
        return f"there is no kernel for weights of {next(iter(forms))}"
    columns = tuple(part.shape[1] for part in parts[0])
    if len(columns) > 2:
        return f"it has {len(columns)} inputs, and the kernels take two"
    if any(tuple(part.shape[1] for part in row) != columns for row in parts):
        return "its parts do not have the same columns"
    if forms == {DENSE}:
        floats = (torch.float16, torch.bfloat16, torch.float32)
        odd = [part.dtype for row in parts for part in row if isinstance(part, Tensor) and part.dtype not in floats]
        return f"there is no kernel for weights of {odd[0]}" if odd else None
    packed = [part for row in parts for part in row if isinstance(part, PackedWeight)]
    group = _group(packed)
    if group % LEAST_GROUP and not (len(columns) == 1 and group == columns[0] and forms != {"int4"}):
        return f"{group} columns share a scale, which is no multiple of {LEAST_GROUP}"
    if forms == {"int4"}:
        if chunk_of(columns, group) is None:
            return f"its columns ({', '.join(map(str, columns))}) are no multiples of {LEAST_GROUP}"
        if any(part.zero is not None and int(part.zero.abs().max()) > _MOST_ZERO for part in packed):
            return f"it has zero points above {_MOST_ZERO}"
    return None


def join(parts: Sequence[Sequence[WeightPart]], dtype: torch.dtype, device: torch.device) -> JoinedWeight:
    """One weight of a grid of parts (`parts[j][i]` multiplies input `i` into section `j`), for activations of `dtype`.

    Dense weights are converted to `dtype`. The grid is one that `can_serve` has no word against.
    """
    rows = sum(row[0].shape[0] for row in parts)
    columns = tuple(part.shape[1] for part in parts[0])
    form = form_of(parts[0][0])
    if form == DENSE:
        dense = torch.empty(rows, sum(columns), dtype=dtype, device=device)
        for part, n, k in _places(parts):
            assert isinstance(part, Tensor)
            dense[n : n + part.shape[0], k : k + part.shape[1]].copy_(part)
        return JoinedWeight(form, dense, None, None, 0, 0, rows, columns, dtype, whole=False)
    packed = [part for row in parts for part in row if isinstance(part, PackedWeight)]
    group = _group(packed)
    chunk = (chunk_of(columns, group) or 0) if form == "int4" else 0
    q = _joined_values(parts, form, chunk, rows, sum(columns), device)
    scale = torch.empty(sum(columns) // group, rows, device=device)
    zeros = any(part.zero is not None for part in packed)
    zero = torch.zeros(scale.shape, dtype=torch.int8, device=device) if zeros else None
    for part, n, k in _places(parts):
        assert isinstance(part, PackedWeight)
        here = slice(k // group, (k + part.shape[1]) // group), slice(n, n + part.shape[0])
        scale[here].copy_(_spread(part.scale.float(), part.shape, group).t())
        if zero is not None and part.zero is not None:
            zero[here].copy_(_spread(part.zero, part.shape, group).t())
    if form == "float8" and dtype is torch.float16:
        scale *= FLOAT8_BIAS
    whole = zero is None and all(part.scale.shape[1] == 1 for part in packed)
    return JoinedWeight(form, q, scale, zero, group, chunk, rows, columns, dtype, whole)


def _places(parts: Sequence[Sequence[WeightPart]]) -> list[tuple[WeightPart, int, int]]:
    """Every part, with its first row and column."""
    places = []
    n = 0
    for row in parts:
        k = 0
        for part in row:
            places.append((part, n, k))
            k += part.shape[1]
        n += row[0].shape[0]
    return places


def _group(parts: Sequence[PackedWeight]) -> int:
    """The most columns that share a scale in every part, and that the parts' first columns are multiples of."""
    return math.gcd(*(part.shape[1] // part.scale.shape[1] for part in parts), *(part.shape[1] for part in parts))


def _spread(parameter: Tensor, shape: tuple[int, int], group: int) -> Tensor:
    """Scales or zero points of a part for each of its rows and every `group` columns."""
    per_row = broadcast_blocks(parameter, torch.Size((shape[0], parameter.shape[1]))).expand(shape[0], -1)
    return per_row.repeat_interleave(shape[1] // group // parameter.shape[1], 1)


def _joined_values(
    parts: Sequence[Sequence[WeightPart]], form: str, chunk: int, rows: int, columns: int, device: torch.device
) -> Tensor:
    if form == "int4":
        q = torch.empty(columns // chunk, rows, chunk // 2, dtype=torch.uint8, device=device)
    else:
        q = torch.empty(rows, columns, dtype=torch.int8 if form == "int8" else torch.uint8, device=device)
    for part, n, k in _places(parts):
        assert isinstance(part, PackedWeight)
        for first in range(0, part.shape[0], _ROWS_AT_ONCE):
            size = min(_ROWS_AT_ONCE, part.shape[0] - first)
            values = part.rows(first, size).to(device)
            if form == "int4":
                place = q[k // chunk : (k + part.shape[1]) // chunk, n + first : n + first + size]
                place.copy_(chunk_int4(values, chunk))
            else:
                q[n + first : n + first + size, k : k + part.shape[1]].copy_(values.view(q.dtype))
    return q
