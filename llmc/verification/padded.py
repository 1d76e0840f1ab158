"""The values of a packed step in the form that they have in the padded step, so that the two can be compared."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compiler.ir.cache_layout import LINEAR
from compiler.ir.dims import Dim
from compiler.ir.graph import Graph
from compiler.ir.packed_step import PackedStep
from compiler.ir.paged_layout import ONE_ROW, PagedLayout, layout_of
from compiler.ir.step import B, C, R, S, Step, T
from compiler.ir.types import TensorType
from llmc.verification.valid_mask import cache_dim


class PaddedForm:
    """How the values of a step graph look in a padded step. Those of a linear graph stay as they are.

    A value of packed tokens `[1, .., T, ..]` becomes `[B, .., S, ..]`, a pool of blocks `[B, heads, C, width]`, and one
    of the tokens whose logits are wanted `[B, R, ..]`; the padding is zeros.

    Attributes:
        types: for each value that has such a form its type, dims as symbols.
        capacity: the dim that counts the places of a cache; None if there are no caches.
    """

    def __init__(self, graph: Graph) -> None:
        self._layout = layout = layout_of(graph)
        self._paged = isinstance(layout, PagedLayout)
        values = [value for op in graph.ops for value in op.results]
        if not isinstance(layout, PagedLayout):
            self.types = {value.name: value.type for value in values}
            self.capacity: Dim | None = cache_dim(graph)
            return
        self._pools = {value.name for value in values if layout.fits(value.type)}
        self._tokens = {value.name: value.type.shape.index(T) for value in values if _holds_tokens(value.type)}
        self._wanted = {value.name: axis for value in values if (axis := _axis_of_wanted(value.type)) is not None}
        self.types = {value.name: type_ for value in values if (type_ := self._padded_type(value.name, value.type))}
        self.capacity = C

    def _padded_type(self, name: str, type_: TensorType) -> TensorType | None:
        """The type of a value of a packed graph as padded; None if it has no such form."""
        if name in self._pools:
            _, _, heads, width = type_.shape
            return type_.with_shape(*LINEAR.dims(heads, width))
        if name in self._tokens:
            rest = (S if dim == T else dim for dim in type_.shape[1:])
            return type_.with_shape(B, *rest)
        if name in self._wanted:
            return type_.with_shape(B, *type_.shape[self._wanted[name] :])
        return None if type_.symbols else type_

    def values(self, values: Mapping[str, Tensor], step: Step, packed: PackedStep | None) -> Mapping[str, Tensor]:
        """What a step computed, in this form; values that have none are left out.

        Args:
            values: the values by name.
            step: the step as padded.
            packed: the same as packed; None if the graph is linear.
        """
        if packed is None or not self._paged:
            return values
        return {name: self._padded(name, value, step, packed) for name, value in values.items() if name in self.types}

    def _padded(self, name: str, value: Tensor, step: Step, packed: PackedStep) -> Tensor:
        if name in self._pools:
            return _rows_of_pool(value, packed)
        if name in self._tokens:
            return _rows_of_tokens(value, self._tokens[name], step)
        if name in self._wanted:
            wanted = value.flatten(0, self._wanted[name])
            asked = step.logit_pos < step.new_len[:, None]
            rows = wanted.new_zeros(*asked.shape, *wanted.shape[1:])
            rows[asked] = wanted
            return rows
        return value


def _holds_tokens(type_: TensorType) -> bool:
    """Whether a value has an element for each packed token, and all in one row."""
    return len(type_.shape) > 1 and type_.shape[0] == ONE_ROW and type_.shape.count(T) == 1


def _axis_of_wanted(type_: TensorType) -> int | None:
    """The axis of the wanted tokens, `[R, ..]` or `[1, R, ..]`; None if a value has no other form of them."""
    shape = type_.shape
    if R not in shape or shape.count(R) > 1 or len(shape) < 2:
        return None
    axis = shape.index(R)
    return axis if axis == 0 or (axis == 1 and shape[0] == ONE_ROW) else None


def _rows_of_tokens(value: Tensor, axis: int, step: Step) -> Tensor:
    """Packed tokens `[1, .., T, ..]`, which lie along `axis`, as `[B, .., S, ..]`."""
    tokens = value[0].movedim(axis - 1, 0)
    rows = tokens.new_zeros(step.batch, step.length, *tokens.shape[1:])
    rows[torch.arange(step.length) < step.new_len[:, None]] = tokens
    return rows.movedim(1, axis)


def _rows_of_pool(pool: Tensor, packed: PackedStep) -> Tensor:
    """The sequences that a step works on as rows of a linear cache, as long as the longest of them."""
    block = pool.shape[PagedLayout.POSITION]
    spans = packed.spans()
    heads, width = pool.shape[PagedLayout.HEAD], pool.shape[PagedLayout.WIDTH]
    longest = max(span.length for span in spans)
    rows = pool.new_zeros(LINEAR.shaped(len(packed.block_tables), heads, longest, width))
    for span in spans:
        blocks = torch.tensor(packed.table(span, block))
        rows[span.row, :, : span.length] = PagedLayout.read(pool.contiguous(), blocks, span.length)[0]
    return rows
