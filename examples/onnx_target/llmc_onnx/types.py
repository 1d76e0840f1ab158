"""Element types and dims, as ONNX has them."""

from __future__ import annotations

from typing import Any

from onnx import TensorProto, helper

from compiler.ir.dtypes import DType
from compiler.ir.types import TensorType

ELEMENT_TYPES = {
    DType.f32: TensorProto.FLOAT,
    DType.f16: TensorProto.FLOAT16,
    DType.f8e4m3: TensorProto.FLOAT8E4M3FN,
    DType.i64: TensorProto.INT64,
    DType.i32: TensorProto.INT32,
    DType.i8: TensorProto.INT8,
    DType.u8: TensorProto.UINT8,
    DType.bool: TensorProto.BOOL,
}
"""Those of llmc's element types that values of a model may have."""


def value_info(name: str, type_: TensorType) -> Any:
    """The declaration of a value: symbolic dims keep their names."""
    shape = [dim if isinstance(dim, int) else str(dim) for dim in type_.shape]
    return helper.make_tensor_value_info(name, ELEMENT_TYPES[type_.dtype], shape)
