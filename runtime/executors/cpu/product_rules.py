"""The rule of products with stored weights."""

from __future__ import annotations

from typing import Any

import torch

from compiler.ir.dtypes import DType
from compiler.ir.op import Op
from runtime.executors.cpu.emission import Emission
from runtime.executors.cpu.forms import require, require_floats, the_form
from runtime.executors.cpu.plans import Kernels, Plan, Plans, native_rule
from runtime.executors.cpu.products import Product
from runtime.executors.torch.quantized import load_packed

_DENSE = (DType.f32, DType.f16, DType.bf16)


def takes_integers(plans: Plans, linear: Op, source: Op) -> bool:
    """Whether a linear multiplies the integers that `source` dequantizes: int8 with a scale for each token or for all,
    by a weight of int8 with a scale for each row or for all.
    """
    if linear.kind.name != "linear" or linear.operands[0] != source.result or len(source.operands) != 2:
        return False
    q, scale = source.operands
    weight = plans.packed.get(linear.operands[1].name)
    if weight is None or len(weight.operands) != 2 or q.type.dtype is not DType.i8:
        return False
    stored, scales = (value.type for value in weight.operands)
    one_a_token = all(dim == 1 for dim in scale.type.shape if isinstance(dim, int))
    return one_a_token and stored.dtype is DType.i8 and scales.shape[1] == 1 and scales.shape[0] in (1, stored.shape[0])


@native_rule("linear")
def _linear(plans: Plans, op: Op) -> Plan:
    x, weight, *bias = op.operands
    form = the_form(x)
    require(form.ends_with_row() and form.columns == form.last, "its input has several rows for a token")
    require_floats(x, op.result)
    require(plans.is_constant(*bias), "its bias is computed while the model runs")
    packed = plans.packed.get(weight.name)
    if packed is None:
        require(plans.is_constant(weight), "its weight is computed while the model runs")
        require(weight.type.dtype in _DENSE, f"its weight is {weight.type.dtype}")
    n = op.result.type.shape[-1]
    assert isinstance(n, int)
    # Rounding to the type that the values have in the graph loses nothing that is promised.
    round_to = torch.bfloat16 if x.type.dtype is DType.bf16 else torch.float32

    def emit(e: Emission) -> None:
        stored = e.state.load(weight) if packed is None else load_packed(e.state, packed)
        added = e.floats(bias[0], n) if bias else None
        source = plans.maker(x, "dequantize")
        integers = source is not None and plans.is_left(source)
        options: Any = {"integers": integers, "round_to": round_to, "threads": e.threads}
        product = Product(e.library, stored, added, **options)
        if integers and source is not None:
            q, scale = (e.matrix(value) for value in source.operands)
            product.emit(e.builder, q, e.result(op.result), scale)
        else:
            product.emit(e.builder, e.matrix(x), e.result(op.result))

    return Kernels(emit)
