"""What shards compute, and its sum over the ranks, in one call: linears, their sum, the all-reduce of it.

A few tokens are summed by memory that the ranks share (see `kernels.peer_sums`), the parts of the products included;
many by the collectives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from compiler.ir.op import Op
from runtime.collectives.communicator import Communicator
from runtime.executors.cuda.dataflow import Dataflow, fixed
from runtime.executors.cuda.kernels.peer_sums import PeerSums
from runtime.executors.cuda.kernels.products import MOST_ROWS, Product, Rounded, Section, Use, row_count
from runtime.executors.cuda.norm_fusion import Sum, product_groups, sum_of
from runtime.executors.cuda.product_fusion import MakeProduct, is_product, rows_of
from runtime.executors.torch.kernels import all_reduce
from runtime.executors.torch.lowering import Fusion, Lowering, plain_line


def reduce_fusions(flow: Dataflow, make: MakeProduct, peers: PeerSums, group: Communicator) -> Iterator[Fusion]:
    """A fusion for each all-reduce of linears, or of sums of nothing else, that no fusion has."""
    for op in flow.graph.ops:
        if op.kind.name == "all_reduce" and op.name not in flow.claimed:
            total = _sharded_sum(flow, op)
            if total is not None:
                ops = flow.claim((*total.ops, op))
                yield Fusion("sum over ranks", ops, _lines(flow, total, op, make, peers, group))


def _sharded_sum(flow: Dataflow, reduce: Op) -> Sum | None:
    """The linears, all without biases, whose sum an op reduces; None if it reduces something else."""
    value = reduce.operands[0]
    if flow.only_user(value) is None:
        return None
    linear = flow.maker(value, "linear")
    total = sum_of(flow, value) if linear is None else None
    if linear is not None and is_product(flow, linear):
        total = Sum(value, (linear,), (linear,), (), ())
    if total is None or total.vectors or total.others:
        return None
    return None if any(len(op.operands) > 2 for op in total.linears) else total


class ReducedSumCall:
    """A sum of products over the ranks.

    Attributes:
        products: the products that are added up, and how many inputs each has.
    """

    def __init__(
        self, products: Sequence[tuple[Product, int]], dtype: torch.dtype, peers: PeerSums, group: Communicator
    ) -> None:
        self.products, self._dtype, self._peers, self._group = [*products], dtype, peers, group

    def __call__(self, *values: Tensor | Rounded) -> Tensor:
        """The sum `[1, T, H]`.

        Args:
            *values: the inputs of the products, product by product, and then what else is added; all `[1, T, ...]`.
        """
        rows = [rows_of(value) for value in values]
        parts: list[Tensor] = []
        for product, count in self.products:
            xs, rows = rows[:count], rows[count:]
            few = 0 < row_count(xs) <= MOST_ROWS
            parts.append(product.partial(xs) if few else product(xs).unsqueeze(0))
        parts += [row.unsqueeze(0) for row in rows if isinstance(row, Tensor)]
        each = parts[0] if len(parts) == 1 else torch.stack([part.float().sum(0) for part in parts])
        if self._peers.takes(each[0].numel()):
            return self._peers(each, self._dtype).unsqueeze(0)
        total = each[0] if len(each) == 1 else each.float().sum(0)
        return all_reduce(total.to(self._dtype), self._group).unsqueeze(0)


def _lines(
    flow: Dataflow, total: Sum, reduce: Op, make: MakeProduct, peers: PeerSums, group: Communicator
) -> Callable[[Lowering], Sequence[str]]:
    def lines(state: Lowering) -> Sequence[str]:
        served, left = product_groups(state, flow, total.linears)
        dtype, section = state.dtype(total.result), Section(fixed(total.result.type.shape[-1]), None)
        uses = [Use(partial=True, rounded=ops[0].operands[0].name in flow.rounded) for ops, _ in served]
        products = [
            (make([parts], [section], None, dtype, use), len(parts))
            for use, (_, parts) in zip(uses, served, strict=True)
        ]
        call = state.hold(f"{reduce.name}.sum", ReducedSumCall(products, dtype, peers, group))
        inputs = [op.operands[0] for ops, _ in served for op in ops] + [op.result for op in left]
        arguments = ", ".join(state.ref(value) for value in inputs)
        before = [plain_line(state, op) for op in left]
        return [*before, f"{state.ref(reduce.result)} = {call}({arguments})"]

    return lines
