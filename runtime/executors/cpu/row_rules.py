"""The rules of ops that work token by token: views, arithmetic, functions, norms, rotary embedding, rounding."""

from __future__ import annotations

from collections.abc import Callable

from compiler.ir.dtypes import DType
from compiler.ir.op import Op, Value
from runtime.executors.cpu import rows
from runtime.executors.cpu.emission import Emission
from runtime.executors.cpu.forms import FLOATS, Form, require, require_floats, the_form
from runtime.executors.cpu.plans import Kernels, Plan, Plans, View, Views, native_rule
from runtime.executors.cpu.program import Matrix, Size


@native_rule("reshape")
def _reshape(plans: Plans, op: Op) -> Plan:
    before, after = the_form(op.operands[0]), the_form(op.result)
    require(before.size == after.size and before.outer == after.outer, "it moves tokens within rows")
    return Views((View(op.operands[0]),))


@native_rule("transpose")
def _transpose(plans: Plans, op: Op) -> Plan:
    form = the_form(op.operands[0])
    moved = [axis for axis in op.attrs["perm"] if axis != form.axis and op.operands[0].type.shape[axis] != 1]
    require(moved == sorted(moved), "it reorders the elements of a token")
    return Views((View(op.operands[0]),))


@native_rule("cast")
def _cast(plans: Plans, op: Op) -> Plan:
    x, to = op.operands[0], op.attrs["dtype"]
    the_form(x)
    if x.type.dtype == to or (x.type.dtype in FLOATS and to in FLOATS):
        return Views((View(x),))
    require(x.type.dtype in (DType.i32, DType.i64, DType.bool) and to in FLOATS, f"it makes {to} of {x.type.dtype}")
    return Kernels(lambda e: e.builder.add("copy", e.matrix(x), e.result(op.result)))


def _column_scale(value: Value, axis: int) -> int:
    """How many columns lie behind an axis, if a slice along it is a slice of columns."""
    form = the_form(value)
    axis %= len(value.type.shape)
    require(axis != form.axis, "it takes some of the tokens")
    before = [dim for at, dim in enumerate(value.type.shape[:axis]) if at != form.axis and dim != 1]
    require(not before, "what it takes of a token does not lie side by side")
    behind = 1
    for at, dim in enumerate(value.type.shape):
        if at > axis and isinstance(dim, int):
            behind *= dim
    return behind


@native_rule("split")
def _split(plans: Plans, op: Op) -> Plan:
    x, views, start = op.operands[0], [], 0
    behind = _column_scale(x, op.attrs["axis"])
    for size in op.attrs["sizes"]:
        views.append(View(x, start * behind, size * behind))
        start += size
    return Views(tuple(views))


@native_rule("slice")
def _slice(plans: Plans, op: Op) -> Plan:
    x, start, size = op.operands[0], op.attrs["start"], op.attrs["size"]
    behind = _column_scale(x, op.attrs["axis"])
    require(isinstance(start, int) and isinstance(size, int), "where it begins or ends is known at run time only")
    return Views((View(x, start * behind, size * behind),))


@native_rule("concat")
def _concat(plans: Plans, op: Op) -> Plan:
    behind = _column_scale(op.result, op.attrs["axis"])
    assert behind
    sizes = {the_form(value).size for value in op.operands}
    require(sizes == {the_form(op.result).size}, "one of its operands has no row for each token")

    def emit(e: Emission) -> None:
        sources = [e.matrix(value) for value in op.operands]
        out, start = e.result(op.result), 0
        for source in sources:
            rows.emit_copy(e.builder, source, out.narrow(start, source.columns))
            start += source.columns

    return Kernels(emit)


def _against(plans: Plans, value: Value, result: Form) -> Callable[[Emission], Matrix]:
    """An operand of an op on elements, as it broadcasts to the result."""
    if plans.is_constant(value):
        return lambda e: e.constant(value, result)
    form = the_form(value)
    shape, rank = value.type.shape, len(result.others) + (result.axis is not None)
    aligned = (1,) * (rank - len(shape)) + tuple(shape)
    others = tuple(dim for axis, dim in enumerate(aligned) if axis != result.axis)
    same_tokens = form.size == result.size or (form.size is Size.ONE and result.axis is not None)
    require(
        same_tokens and (others == result.others or form.columns == 1),
        f"%{value.name} broadcasts within the elements of a token",
    )
    return lambda e: e.matrix(value)


@native_rule("add", "sub", "mul", "div")
def _arithmetic(plans: Plans, op: Op) -> Plan:
    dtype, form = op.result.type.dtype, the_form(op.result)
    integers = dtype in (DType.i32, DType.i64) and op.kind.name != "div"
    require(dtype in FLOATS or integers, f"it computes in {dtype}")
    operands = [_against(plans, value, form) for value in op.operands]

    def emit(e: Emission) -> None:
        a, b = (get(e) for get in operands)
        rows.emit_binary(e.builder, op.kind.name, a, b, e.result(op.result))

    return Kernels(emit)


_NUMBERS = (*FLOATS, DType.i32, DType.i64)


@native_rule("less", "less_equal", "logical_and", "where")
def _choice(plans: Plans, op: Op) -> Plan:
    form = the_form(op.result)
    given = op.operands[1:] if op.kind.name == "where" else op.operands
    types = (DType.bool,) if op.kind.name == "logical_and" else _NUMBERS
    for value in given:
        require(value.type.dtype in types, f"%{value.name} is {value.type.dtype}")
    operands = [_against(plans, value, form) for value in op.operands]
    return Kernels(lambda e: e.builder.add(op.kind.name, *(get(e) for get in operands), e.result(op.result)))


@native_rule("relu", "silu", "sigmoid", "tanh", "cos", "sin", "gelu")
def _function(plans: Plans, op: Op) -> Plan:
    x = op.operands[0]
    the_form(x)
    require_floats(x)
    kernel = op.kind.name
    if kernel == "gelu":
        kernel = "gelu_tanh" if op.attrs["tanh"] else "gelu_erf"
    return Kernels(lambda e: rows.emit_unary(e.builder, kernel, e.matrix(x), e.result(op.result)))


@native_rule("scale")
def _scale(plans: Plans, op: Op) -> Plan:
    x = op.operands[0]
    the_form(x)
    require_floats(x)
    return Kernels(lambda e: rows.emit_scale(e.builder, e.matrix(x), e.result(op.result), op.attrs["factor"]))


@native_rule("clamp")
def _clamp(plans: Plans, op: Op) -> Plan:
    x, low, high = op.operands[0], op.attrs["min"], op.attrs["max"]
    the_form(x)
    require_floats(x)
    return Kernels(lambda e: rows.emit_clamp(e.builder, e.matrix(x), e.result(op.result), low, high))


def _last_of_row(value: Value) -> int:
    """The size of the last axis; UnsuitedError if it is that of the tokens."""
    form = the_form(value)
    require(form.ends_with_row(), "its last axis is that of the tokens")
    return form.last


@native_rule("layer_norm", "rms_norm")
def _norm(plans: Plans, op: Op) -> Plan:
    x, *parameters = op.operands
    width = _last_of_row(x)
    require_floats(x)
    require(plans.is_constant(*parameters), "its weight is computed while the model runs")
    eps, centered = op.attrs["eps"], op.kind.name == "layer_norm"

    def emit(e: Emission) -> None:
        weight, bias = (*(e.floats(value, width) for value in parameters), None, None)[:2]
        source, out = e.matrix(x), e.result(op.result)
        if centered:
            rows.emit_layer_norm(e.builder, source, out, weight, bias, eps, width)
        else:
            rows.emit_rms_norm(e.builder, source, out, weight, eps, width)

    return Kernels(emit)


@native_rule("amax")
def _amax(plans: Plans, op: Op) -> Plan:
    x = op.operands[0]
    _last_of_row(x)
    require_floats(x)
    require(op.attrs["axis"] in (-1, len(x.type.shape) - 1), "it is not along the last axis")
    return Kernels(lambda e: rows.emit_amax(e.builder, e.matrix(x), e.result(op.result)))


@native_rule("embedding")
def _embedding(plans: Plans, op: Op) -> Plan:
    table, ids = op.operands
    require(
        plans.is_constant(table) and table.type.dtype in FLOATS, "its table is not stored in floating-point numbers"
    )
    form = the_form(ids)
    require(form.columns == 1 and ids.type.dtype in (DType.i32, DType.i64), "a token has several ids")
    return Kernels(lambda e: rows.emit_embedding(e.builder, e.matrix(ids), e.result(op.result), e.state.load(table)))


@native_rule("gather_rows")
def _gather_rows(plans: Plans, op: Op) -> Plan:
    x, index = op.operands
    form, chosen = the_form(x), the_form(index)
    require_floats(x)
    require(form.size is Size.TOKENS and chosen.size is Size.WANTED, "it does not choose among the tokens of a step")
    require(form.axis == 1 and chosen.columns == 1, "it does not choose among the tokens of a step")
    return Kernels(lambda e: rows.emit_gather_rows(e.builder, e.matrix(x), e.matrix(index), e.result(op.result)))


@native_rule("rotary")
def _rotary(plans: Plans, op: Op) -> Plan:
    x, cos, sin = op.operands
    width = _last_of_row(x)
    require_floats(x, cos, sin)
    for angles in (cos, sin):
        require(the_form(angles).size in (the_form(x).size, Size.ONE), "it turns tokens of other steps")
    interleaved = bool(op.attrs["interleaved"])

    def emit(e: Emission) -> None:
        given, (c, s) = e.matrix(x), (e.matrix(cos), e.matrix(sin))
        rows.emit_rotary(e.builder, given, c, s, e.result(op.result), width, interleaved=interleaved)

    return Kernels(emit)
