"""For each kind of op, which axes of its operands and results belong together, and which it needs all of."""

from __future__ import annotations

from compiler.ir.cache_layout import LINEAR
from compiler.passes.parallel.atoms import Atom
from compiler.passes.parallel.kinds import ELEMENTWISE
from compiler.passes.parallel.layout import Axes, Site, placement


@placement(*ELEMENTWISE, "broadcast")
def elementwise(site: Site) -> None:
    """The axes of each operand are those of the result, by broadcasting from the last one backwards."""
    for operand in site.operands:
        site.aligned(operand, site.results[0])


@placement("linear")
def _linear(site: Site) -> None:
    x, weight, *bias = site.operands
    y = site.results[0]
    site.aligned(x[:-1], y[:-1])
    site.same(x[-1:], weight[-1:])
    site.contracts()
    for parameter in (weight, *bias):
        site.same(parameter[:1], y[-1:])


@placement("matmul")
def _matmul(site: Site) -> None:
    a, b = site.operands
    y = site.results[0]
    columns, inner = (b[-2], b[-1]) if site.op.attrs["transpose_b"] else (b[-1], b[-2])
    site.aligned(a[:-2], y[:-2])
    site.aligned(b[:-2], y[:-2])
    site.same(a[-2:-1], y[-2:-1])
    site.same((columns,), y[-1:])
    site.whole((a[-1], inner))


@placement("softmax")
def _softmax(site: Site) -> None:
    site.aligned(site.operands[0], site.results[0])
    site.whole((site.operands[0][site.op.attrs["axis"]],))


@placement("layer_norm", "rms_norm")
def _norm(site: Site) -> None:
    """Each row alone. Its parameters are used as they are; the result can be cut afterwards."""
    x, y = site.operands[0], site.results[0]
    site.aligned(x[:-1], y[:-1])
    site.whole(x[-1:])
    for parameter in site.operands[1:]:
        site.whole(parameter)


@placement("rotary")
def _rotary(site: Site) -> None:
    x, cos, sin = site.operands
    site.aligned(x, site.results[0])
    for angles in (cos, sin):
        site.same(angles[:1], x[:1])
        site.same(angles[1:2], x[2:3])
        site.whole(angles[2:])
    site.whole(x[3:])


@placement("attention")
def _attention(site: Site) -> None:
    q, k, v, *extras = site.operands
    y = site.results[0]
    group = q[1].size // k[1].size if isinstance(q[1].size, int) and isinstance(k[1].size, int) else 1
    site.same(q[1:2], (k[1], Atom(group)))
    site.aligned(q[:3], y[:3])
    site.aligned(k[:1], q[:1])
    site.aligned(v[:3], k[:3])
    for extra in extras:
        site.aligned(extra, (*q[:3], k[2]))
    site.whole((*k[2:], q[3], *v[3:], y[3]))


@placement("kv_update")
def _kv_update(site: Site) -> None:
    """A cache may hold some of the heads, but of each head all."""
    cache, new, at, count = site.operands
    site.aligned(cache, site.results[0])
    for axis in (LINEAR.ROW, LINEAR.HEAD):
        site.aligned((new[axis],), (cache[axis],))
    for rows in (at, count):
        site.same(rows, (cache[LINEAR.ROW],))
    site.whole([each[axis] for each in (cache, new) for axis in (LINEAR.POSITION, LINEAR.WIDTH)])


@placement("reshape")
def _reshape(site: Site) -> None:
    site.same(site.operands[0], site.results[0])


@placement("transpose")
def _transpose(site: Site) -> None:
    site.aligned(tuple([site.operands[0][i] for i in site.op.attrs["perm"]]), site.results[0])


@placement("slice", "split", "concat")
def _cut_or_joined(site: Site) -> None:
    """Along its axis all is needed; the pieces, or the whole, can be cut afterwards."""
    axis = site.op.attrs["axis"] % len(site.results[0])
    for whole, part in [(o, r) for o in site.operands for r in site.results]:
        site.aligned(_without(whole, axis), _without(part, axis))
    for operand in site.operands:
        site.whole((operand[axis],))


@placement("embedding")
def _embedding(site: Site) -> None:
    table, ids = site.operands
    site.aligned(ids, site.results[0][:-1])
    site.same(table[1:], site.results[0][-1:])
    site.whole(table[:1])


@placement("gather_rows")
def _gather_rows(site: Site) -> None:
    x, rows = site.operands
    site.aligned(rows, site.results[0][:2])
    site.same(x[:1], rows[:1])
    site.aligned(x[2:], site.results[0][2:])
    site.whole(x[1:2])


@placement("quantize", "dequantize")
def _quantized(site: Site) -> None:
    """Scales go with the elements; along an axis that they divide into blocks, all is needed."""
    x, *parameters = site.operands
    site.aligned(x, site.results[0])
    for parameter in parameters:
        for mine, other in zip(parameter, x, strict=True):
            if mine.size == other.size:
                site.same((mine,), (other,))
            elif mine.size != 1:
                site.whole((mine, other))


@placement("amax")
def _amax(site: Site) -> None:
    """The largest of each piece along its axis, and then of these."""
    x, y = site.operands[0], site.results[0]
    axis = site.op.attrs["axis"] % len(x)
    site.aligned(_without(x, axis), _without(y, axis))
    site.takes_largest()


@placement("iota")
def _iota(site: Site) -> None:
    """Counted from zero on each rank, and cut afterwards."""


def _without(axes: Axes, axis: int) -> Axes:
    return (*axes[:axis], *axes[axis + 1 :])
