"""Ops of a graph that several ranks run together.

A graph is for all ranks of a mesh, `tp` ranks in each of `pp` stages: the facts of these names say how many. Ranks of
one stage run the same ops on shards of the same tensors. `compiler.ir.mesh.rank_graph` is what one rank runs.
"""

from compiler.ir.dims import Dim
from compiler.ir.dtypes import DType
from compiler.ir.op import op
from compiler.ir.ops.check import axis_of, require
from compiler.ir.types import TensorType


@op
def shard(x: TensorType, *, axis: int, parts: int, each: int = 1) -> TensorType:
    """One of `parts` equal shards of `x` along `axis`: rank `r` of a stage has shard `r // each % parts`.

    `each` ranks in a row have the same shard. Of a constant each rank stores its shard only.
    """
    axis = axis_of(axis, x.rank)
    _positive(parts, "parts")
    _positive(each, "each")
    size = x.shape[axis]
    require(
        isinstance(size, int) and size % parts == 0, f"{parts} shards of axis {axis} of size {size} would not be equal"
    )
    return _with_dim(x, axis, size // parts if isinstance(size, int) else size)


@op
def all_reduce(x: TensorType, *, parts: int) -> TensorType:
    """The sum of `x` over the `parts` ranks of a stage, on each of them; rounded once."""
    require(x.dtype is not DType.bool, "a sum of bools; cast first")
    _positive(parts, "parts")
    return x


@op
def all_max(x: TensorType, *, parts: int) -> TensorType:
    """The largest `x` over the `parts` ranks of a stage, element by element, on each of them."""
    require(x.dtype is not DType.bool, "the largest of bools; cast first")
    _positive(parts, "parts")
    return x


@op
def all_gather(x: TensorType, *, axis: int, parts: int) -> TensorType:
    """The `x` of the `parts` ranks of a stage one after the other along `axis`, on each of them."""
    axis = axis_of(axis, x.rank)
    _positive(parts, "parts")
    return _with_dim(x, axis, x.shape[axis] * parts)


@op
def transfer(x: TensorType, *, stage: int) -> TensorType:
    """`x`, from here on in `stage`: each rank sends it to the rank of that stage that has its place.

    What is computed from it is computed there. Whatever depends on no transfer belongs to stage 0, and is computed
    again in every other stage that uses it.
    """
    require(stage > 0, f"stage {stage} is no later stage than the first")
    return x


def _positive(number: int, name: str) -> None:
    require(number > 0, f"{name} is {number}; it must be at least 1")


def _with_dim(x: TensorType, axis: int, size: Dim) -> TensorType:
    return x.with_shape(*x.shape[:axis], size, *x.shape[axis + 1 :])
