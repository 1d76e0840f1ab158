"""For each kind of op, which axes of its operands and results belong together, and which it needs all of."""

from __future__ import annotations

from compiler.ir.cache_layout import LINEAR
from compiler.ir.paged_layout import PagedLayout
from compiler.passes.parallel.factors import Factor
from compiler.passes.parallel.graph_factors import Axes, OpFactors, sharding_rule
from compiler.passes.parallel.kinds import ELEMENTWISE


@sharding_rule(*ELEMENTWISE, "broadcast")
def elementwise(factors: OpFactors) -> None:
    """The axes of each operand are those of the result, by broadcasting from the last one backwards."""
    for operand in factors.operands:
        factors.aligned(operand, factors.results[0])


@sharding_rule("linear")
def _linear(factors: OpFactors) -> None:
    x, weight, *bias = factors.operands
    y = factors.results[0]
    factors.aligned(x[:-1], y[:-1])
    factors.same(x[-1:], weight[-1:])
    factors.contracts()
    for parameter in (weight, *bias):
        factors.same(parameter[:1], y[-1:])


@sharding_rule("matmul")
def _matmul(factors: OpFactors) -> None:
    a, b = factors.operands
    y = factors.results[0]
    columns, inner = (b[-2], b[-1]) if factors.op.attrs["transpose_b"] else (b[-1], b[-2])
    factors.aligned(a[:-2], y[:-2])
    factors.aligned(b[:-2], y[:-2])
    factors.same(a[-2:-1], y[-2:-1])
    factors.same((columns,), y[-1:])
    factors.whole((a[-1], inner))


@sharding_rule("softmax")
def _softmax(factors: OpFactors) -> None:
    factors.aligned(factors.operands[0], factors.results[0])
    factors.whole((factors.operands[0][factors.op.attrs["axis"]],))


@sharding_rule("layer_norm", "rms_norm")
def _norm(factors: OpFactors) -> None:
    """Each row alone. Its parameters are used as they are; the result can be cut afterwards."""
    x, y = factors.operands[0], factors.results[0]
    factors.aligned(x[:-1], y[:-1])
    factors.whole(x[-1:])
    for parameter in factors.operands[1:]:
        factors.whole(parameter)


@sharding_rule("rotary")
def _rotary(factors: OpFactors) -> None:
    x, cos, sin = factors.operands
    factors.aligned(x, factors.results[0])
    for angles in (cos, sin):
        factors.same(angles[:1], x[:1])
        factors.same(angles[1:2], x[2:3])
        factors.whole(angles[2:])
    factors.whole(x[3:])


@sharding_rule("attention")
def _attention(factors: OpFactors) -> None:
    q, k, v, *extras = factors.operands
    y = factors.results[0]
    group = q[1].size // k[1].size if isinstance(q[1].size, int) and isinstance(k[1].size, int) else 1
    factors.same(q[1:2], (k[1], Factor(group)))
    factors.aligned(q[:3], y[:3])
    factors.aligned(k[:1], q[:1])
    factors.aligned(v[:3], k[:3])
    for extra in extras:
        factors.aligned(extra, (*q[:3], k[2]))
    factors.whole((*k[2:], q[3], *v[3:], y[3]))


@sharding_rule("kv_update")
def _kv_update(factors: OpFactors) -> None:
    """A cache may hold some of the heads, but of each head all."""
    cache, new, at, count = factors.operands
    factors.aligned(cache, factors.results[0])
    for axis in (LINEAR.ROW, LINEAR.HEAD):
        factors.aligned((new[axis],), (cache[axis],))
    for rows in (at, count):
        factors.same(rows, (cache[LINEAR.ROW],))
    factors.whole([each[axis] for each in (cache, new) for axis in (LINEAR.POSITION, LINEAR.WIDTH)])


@sharding_rule("paged_attention")
def _paged_attention(factors: OpFactors) -> None:
    """As of `attention`; where the tokens lie is the same on all ranks."""
    q, k, v, *others = factors.operands
    y = factors.results[0]
    heads, kv_heads = q[LINEAR.HEAD], k[PagedLayout.HEAD]
    group = heads.size // kv_heads.size if isinstance(heads.size, int) and isinstance(kv_heads.size, int) else 1
    factors.same((heads,), (kv_heads, Factor(group)))
    factors.aligned(q[:3], y[:3])
    factors.aligned(v[:3], k[:3])
    for slopes in others[3:]:
        factors.same(slopes[:1], (heads,))
    factors.whole([axis for axis in (*q, *k) if axis not in (heads, kv_heads)])
    factors.whole([v[PagedLayout.WIDTH], y[LINEAR.WIDTH], *(axis for each in others[:3] for axis in each)])


@sharding_rule("paged_kv_update")
def _paged_kv_update(factors: OpFactors) -> None:
    """A pool may hold some of the heads, but of each head all."""
    pool, new, *addresses = factors.operands
    factors.aligned(pool, factors.results[0])
    factors.aligned((new[LINEAR.HEAD],), (pool[PagedLayout.HEAD],))
    factors.whole([axis for at, axis in enumerate(pool) if at != PagedLayout.HEAD])
    factors.whole([axis for at, axis in enumerate(new) if at != LINEAR.HEAD])
    factors.whole([axis for each in addresses for axis in each])


@sharding_rule("reshape")
def _reshape(factors: OpFactors) -> None:
    factors.same(factors.operands[0], factors.results[0])


@sharding_rule("transpose")
def _transpose(factors: OpFactors) -> None:
    factors.aligned(tuple([factors.operands[0][i] for i in factors.op.attrs["perm"]]), factors.results[0])


@sharding_rule("slice", "split", "concat")
def _cut_or_joined(factors: OpFactors) -> None:
    """Along its axis all is needed; the shards, or the whole, can be cut afterwards."""
    axis = factors.op.attrs["axis"] % len(factors.results[0])
    for whole, part in [(o, r) for o in factors.operands for r in factors.results]:
        factors.aligned(_without(whole, axis), _without(part, axis))
    for operand in factors.operands:
        factors.whole((operand[axis],))


@sharding_rule("embedding")
def _embedding(factors: OpFactors) -> None:
    table, ids = factors.operands
    factors.aligned(ids, factors.results[0][:-1])
    factors.same(table[1:], factors.results[0][-1:])
    factors.whole(table[:1])


@sharding_rule("gather_rows")
def _gather_rows(factors: OpFactors) -> None:
    x, rows = factors.operands
    factors.aligned(rows, factors.results[0][:2])
    factors.same(x[:1], rows[:1])
    factors.aligned(x[2:], factors.results[0][2:])
    factors.whole(x[1:2])


@sharding_rule("quantize", "dequantize")
def _quantized(factors: OpFactors) -> None:
    """Scales go with the elements; along an axis that they divide into blocks, all is needed."""
    x, *parameters = factors.operands
    factors.aligned(x, factors.results[0])
    for parameter in parameters:
        for mine, other in zip(parameter, x, strict=True):
            if mine.size == other.size:
                factors.same((mine,), (other,))
            elif mine.size != 1:
                factors.whole((mine, other))


@sharding_rule("amax")
def _amax(factors: OpFactors) -> None:
    """The largest of each shard along its axis, and then of these."""
    x, y = factors.operands[0], factors.results[0]
    axis = factors.op.attrs["axis"] % len(x)
    factors.aligned(_without(x, axis), _without(y, axis))
    factors.takes_largest()


@sharding_rule("iota")
def _iota(factors: OpFactors) -> None:
    """Counted from zero on each rank, and cut afterwards."""


def _without(axes: Axes, axis: int) -> Axes:
    return (*axes[:axis], *axes[axis + 1 :])
