"""The rules of attention over pools of blocks, and of writing into them."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.ir.cache_layout import LINEAR
from compiler.ir.dtypes import DType
from compiler.ir.op import Op, Value
from compiler.ir.packed_step import BLOCK_TABLES, TOKEN_POSITIONS, TOKEN_ROWS
from compiler.ir.paged_layout import PagedLayout
from compiler.ir.step import StepDim
from runtime.executors.cpu.attention import (
    LARGEST_WIDTH,
    SPAN_COLUMNS,
    AttentionForm,
    PoolScaling,
    emit_paged_append,
    emit_paged_attention,
)
from runtime.executors.cpu.emission import Emission
from runtime.executors.cpu.forms import FLOATS, require, require_floats, the_form
from runtime.executors.cpu.plans import Kernels, Plan, Plans, Update, native_rule
from runtime.executors.cpu.program import Matrix, Size

_ADDRESSES = [TOKEN_POSITIONS, TOKEN_ROWS, BLOCK_TABLES]
_POOLS = (DType.f32, DType.f16, DType.bf16, DType.i8, DType.f8e4m3)


def fixed(dim: object) -> int:
    """A dim that is no symbol."""
    assert isinstance(dim, int)
    return dim


def reads_pool(user: Op, source: Op) -> bool:
    """Whether a `paged_attention` reads a pool that `source` dequantizes."""
    return user.kind.name == "paged_attention" and source.result in user.operands[1:3]


def _tables(e: Emission) -> Matrix:
    return e.access(Emission.TABLES, Size.SEQUENCES, e.plans.graph.dims[StepDim.TABLE].max)


@native_rule("paged_kv_update")
def _update(plans: Plans, op: Op) -> Plan:
    pool, new, *addresses = op.operands
    replaced = (
        plans.graph.outputs.get(pool.name) == op.result
        and pool in plans.graph.inputs
        and all(user.name == op.name for user in plans.users(pool))
    )
    require(replaced, "it does not replace a cache of the step graph in place")
    require([value.name for value in addresses] == _ADDRESSES, "it does not write where the step's tokens lie")
    require(pool.type.dtype in _POOLS, f"the cache is {pool.type.dtype}")
    form = the_form(new)
    require(form.axis == LINEAR.POSITION, "what it writes is not [1, heads, tokens, width]")
    require((new.type.dtype in FLOATS) == (pool.type.dtype in FLOATS), "it converts what it writes")
    positions, rows, _ = addresses

    def emit(e: Emission) -> None:
        block = fixed(pool.type.shape[PagedLayout.POSITION])
        emit_paged_append(
            e.builder, e.matrix(new), e.matrix(positions), e.matrix(rows), _tables(e), e.pool(pool), block
        )

    return Update(emit)


class _Pool:
    """What an attention reads: a pool, and how it is dequantized."""

    def __init__(self, plans: Plans, value: Value) -> None:
        self.parameters: Sequence[Value] = ()
        source = plans.maker(value, "dequantize")
        if source is not None:
            value, *self.parameters = source.operands
        self.value = value
        self.type = value.type
        require(plans.maker(value, "paged_kv_update") is not None, "what it reads was not written by this step")
        require(plans.is_constant(*self.parameters), "its scales are computed while the model runs")
        heads_alone = all(
            dim == 1
            for parameter in self.parameters
            for axis, dim in enumerate(parameter.type.shape)
            if axis != PagedLayout.HEAD
        )
        require(heads_alone, "its scales are not one for each head or one for all")
        require((self.type.dtype in FLOATS) != bool(self.parameters), f"it reads {self.type.dtype}")

    @property
    def heads(self) -> int:
        return fixed(self.type.shape[PagedLayout.HEAD])

    @property
    def width(self) -> int:
        return fixed(self.type.shape[PagedLayout.WIDTH])

    def scaling(self, e: Emission) -> PoolScaling:
        """What its elements stand for."""
        return PoolScaling(*(e.state.load(value) for value in self.parameters))


@native_rule("paged_attention")
def _attention(plans: Plans, op: Op) -> Plan:
    q, *read, positions, rows, tables = op.operands[:6]
    require_floats(q)
    require(the_form(q).axis == LINEAR.POSITION, "its queries are not [1, heads, tokens, width]")
    require(
        [value.name for value in (positions, rows, tables)] == _ADDRESSES,
        "it does not read where the step's tokens lie",
    )
    slopes = op.operands[6] if len(op.operands) > 6 else None
    require(slopes is None or plans.is_constant(slopes), "the slopes of ALiBi are computed while the model runs")
    k, v = (_Pool(plans, value) for value in read)
    heads = fixed(q.type.shape[LINEAR.HEAD])
    widest = max(k.width, v.width)
    require(widest <= LARGEST_WIDTH, f"its heads have {widest} elements, more than {LARGEST_WIDTH}")

    def emit(e: Emission) -> None:
        form = AttentionForm(
            heads,
            k.heads,
            k.width,
            v.width,
            fixed(k.type.shape[PagedLayout.POSITION]),
            op.attrs["scale"],
            op.attrs["window"],
            None if slopes is None else e.state.load(slopes),
            k.scaling(e),
            v.scaling(e),
        )
        q_rows, spans = e.matrix(q), e.access(Emission.SPANS, Size.SPANS, SPAN_COLUMNS)
        keys, values = e.pool(k.value), e.pool(v.value)
        emit_paged_attention(e.builder, q_rows, spans, _tables(e), keys, values, e.result(op.result), form)

    return Kernels(emit)
