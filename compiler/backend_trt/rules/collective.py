"""What the ranks of a stage compute together. NCCL does it, on the stream that the plan runs on.

Which collective a layer is cannot be read back from TensorRT, so the layer's metadata says it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from compiler.backend_trt.emission import Emission, TrtTensor, emits
from compiler.backend_trt.rules.shape import reshaped
from compiler.ir.dtypes import DType
from compiler.ir.op import Op

_COLLECTIVES: Mapping[str, tuple[str, str, str]] = {
    "all_reduce": ("all_reduce_sum", "ALL_REDUCE", "SUM"),
    "all_max": ("all_reduce_max", "ALL_REDUCE", "MAX"),
    "all_gather": ("all_gather", "ALL_GATHER", "NONE"),
}
"""For each kind of op the name in the metadata, and the names of TensorRT's operation and reduction."""


@emits("all_reduce")
def _all_reduce(e: Emission, op: Op) -> TrtTensor:
    x, parts = op.operands[0], op.attrs["parts"]
    dtype = x.type.dtype
    # NCCL rounds at each addition. Of two ranks there is one, which is right in 16 bits; more are added in float32.
    exact = DType.f32 if dtype.is_float and dtype.bits < 32 and parts > 2 else dtype
    return e.cast(_collective(e, op, e.cast(e[x], exact, "f32"), "" if exact is dtype else "sum"), dtype)


@emits("all_max")
def _all_max(e: Emission, op: Op) -> TrtTensor:
    return _collective(e, op, e[op.operands[0]])


@emits("all_gather")
def _all_gather(e: Emission, op: Op) -> TrtTensor:
    x, parts = op.operands[0], op.attrs["parts"]
    shape, axis = x.type.shape, op.attrs["axis"] % x.type.rank
    if axis == 0:
        return _collective(e, op, e[x])
    # TensorRT gathers along the first axis: the ranks become an axis of their own, which moves to its place.
    joined = _collective(e, op, e[x], "joined")
    ranks = e.network.add_shuffle(reshaped(e, joined, (shape[0] * parts, *shape[1:]), (parts, *shape), "ranks"))
    ranks.first_transpose = (*range(1, axis + 1), 0, *range(axis + 1, x.type.rank + 1))
    moved = e.layer(ranks, "moved")
    return reshaped(e, moved, (*shape[:axis], parts, *shape[axis:]), op.result.type.shape)


def _collective(e: Emission, op: Op, x: TrtTensor, detail: str = "") -> TrtTensor:
    """The layer of a collective over all ranks of the communicator."""
    name, operation, reduction = _COLLECTIVES[op.kind.name]
    layer: Any = e.network.add_dist_collective(
        x, getattr(e.trt.CollectiveOperation, operation), getattr(e.trt.ReduceOperation, reduction), -1, []
    )
    if layer is None:
        return e.layer(None, detail)
    layer.num_ranks = op.attrs["parts"]
    made = e.layer(layer, detail)
    layer.metadata = json.dumps({**json.loads(layer.metadata), "collective": name})
    return made
