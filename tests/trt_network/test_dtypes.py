"""TensorRT's element types."""

import subprocess
import sys

import pytest
import torch

from compiler.ir.dtypes import DType
from compiler.trt_network.dtypes import BY_DTYPE, DataType
from compiler.trt_network.library import load_library


def test_every_type_of_the_ir_but_one_has_a_name_in_tensorrt():
    assert set(DType) - set(BY_DTYPE) == {DType.f64}
    assert all(type_.dtype is dtype and type_.bits == dtype.bits for dtype, type_ in BY_DTYPE.items())


def test_the_names_are_those_of_the_package():
    assert set(DataType.__members__) == set(load_library("tensorrt-rtx").trt.DataType.__members__)


def test_the_widths_are_those_of_the_package():
    trt = load_library("tensorrt-rtx").trt
    for type_ in set(DataType) - {DataType.E8M0}:  # of which the package knows none
        assert type_.bits == getattr(trt.DataType, type_.name).itemsize * 8, type_


def test_torch_holds_the_types_that_the_ir_has():
    assert DataType.FP8.torch_dtype == torch.float8_e4m3fn
    assert DataType.INT4.torch_dtype == torch.int8  # unpacked
    with pytest.raises(TypeError, match="FP4 has no element type of the IR"):
        _ = DataType.FP4.torch_dtype


def test_records_are_read_without_torch():
    program = "import sys, compiler.trt_network.record, compiler.trt_network.plans; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
