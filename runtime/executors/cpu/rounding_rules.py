"""The rules of rounding to 8 bits, and back."""

from __future__ import annotations

from collections.abc import Callable

from compiler.ir.dtypes import DType
from compiler.ir.evaluators.quant import RANGES
from compiler.ir.op import Op, Value
from runtime.executors.cpu import rows
from runtime.executors.cpu.attention_rules import reads_pool
from runtime.executors.cpu.emission import Emission
from runtime.executors.cpu.forms import Form, require, require_floats, the_form
from runtime.executors.cpu.plans import Kernels, Left, Plan, Plans, native_rule
from runtime.executors.cpu.product_rules import takes_integers
from runtime.executors.cpu.program import Matrix, Size

_BYTES = (DType.i8, DType.f8e4m3)


def _scale_of(plans: Plans, value: Value, x: Form) -> Callable[[Emission], Matrix]:
    """The scale or zero point by which rows are rounded: of each token or of all, for each block of its elements."""
    form = the_form(value)
    blocks = form.columns == 1 or (
        form.axis == x.axis and form.others[:-1] == x.others[:-1] and x.last % form.last == 0
    )
    if plans.is_constant(value):
        return (lambda e: e.constant(value)) if form.columns == 1 else (lambda e: e.constant(value, x))
    require(
        form.size in (x.size, Size.ONE) and blocks, "its scales are for parts of a token that do not lie side by side"
    )
    return lambda e: e.matrix(value)


@native_rule("quantize")
def _quantize(plans: Plans, op: Op) -> Plan:
    x, *parameters = op.operands
    form, dtype = the_form(x), op.attrs["dtype"]
    require_floats(x)
    require(dtype in _BYTES, f"it makes {dtype}")
    scales = [_scale_of(plans, value, form) for value in parameters]

    def emit(e: Emission) -> None:
        scale, zero = scales[0](e), scales[1](e) if len(scales) > 1 else None
        rows.emit_quantize(e.builder, e.matrix(x), scale, zero, e.result(op.result), *RANGES[dtype])

    return Kernels(emit)


@native_rule("dequantize")
def _dequantize(plans: Plans, op: Op) -> Plan:
    q, *parameters = op.operands
    if _is_left(plans, op):
        return Left()
    form = the_form(q)
    require(q.type.dtype in _BYTES, f"it reads {q.type.dtype}")
    scales = [_scale_of(plans, value, form) for value in parameters]

    def emit(e: Emission) -> None:
        scale, zero = scales[0](e), scales[1](e) if len(scales) > 1 else None
        rows.emit_dequantize(e.builder, e.matrix(q), scale, zero, e.result(op.result))

    return Kernels(emit)


def _is_left(plans: Plans, op: Op) -> bool:
    """Whether all that use what an op dequantizes take it as it is stored, with its scales."""
    users = plans.users(op.result)
    return (
        bool(users)
        and not plans.is_output(op.result)
        and all((takes_integers(plans, user, op) or reads_pool(user, op)) and plans.is_native(user) for user in users)
    )
