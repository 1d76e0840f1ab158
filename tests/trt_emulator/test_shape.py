"""Layers that make or change shapes."""

from typing import Any

import pytest
import torch

from compiler.errors import TargetError
from compiler.trt_emulator.memory import TORCH_TYPES
from tests.trt_emulator.networks import Network, bind, evaluate

PLAIN: dict[str, Any] = {
    "first_transpose": None,
    "reshape_dims": None,
    "second_transpose": None,
    "zero_is_placeholder": True,
}


def i64(*values):
    return torch.tensor(values, dtype=torch.int64)


@pytest.mark.parametrize("dtype", ["FLOAT", "BF16", "INT64", "BOOL", "FP8"])
@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        ({}, lambda x: x),
        ({"first_transpose": [2, 0, 1]}, lambda x: x.permute(2, 0, 1)),
        ({"first_transpose": [2, 0, 1, 3, 4, 5, 6, 7]}, lambda x: x.permute(2, 0, 1)),
        ({"reshape_dims": [0, -1]}, lambda x: x.reshape(2, 12)),
        ({"first_transpose": [1, 0, 2], "reshape_dims": [0, 8]}, lambda x: x.permute(1, 0, 2).reshape(3, 8)),
        (
            {"reshape_dims": [2, 3, 2, 2], "second_transpose": [0, 2, 1, 3]},
            lambda x: x.reshape(2, 3, 2, 2).permute(0, 2, 1, 3),
        ),
    ],
)
def test_shuffle(params, wanted, dtype):
    x = torch.arange(24).remainder(7).reshape(2, 3, 4).to(TORCH_TYPES[dtype])
    exact = wanted(x)
    result = evaluate("SHUFFLE", [x], dtype, exact.shape, **{**PLAIN, **params})
    assert torch.equal(result.float(), exact.float())


def test_shuffle_takes_dims_from_its_second_input_whatever_the_property_says():
    x = torch.arange(6.0).reshape(2, 3)
    params = {**PLAIN, "reshape_dims": [1, 6]}
    assert evaluate("SHUFFLE", [x, i64(3, 2)], "FLOAT", (3, 2), constants=[1], **params).tolist() == [
        [0, 1],
        [2, 3],
        [4, 5],
    ]


def test_a_zero_dim_is_empty_if_it_is_no_placeholder():
    params = {**PLAIN, "reshape_dims": [0, 5], "zero_is_placeholder": False}
    assert evaluate("SHUFFLE", [torch.ones(0, 3)], "FLOAT", (0, 5), **params).shape == (0, 5)


def test_dims_can_follow_from_shapes_at_run_time():
    network = Network()
    x, y = network.input("x", "HALF", (-1, -1, 4)), network.input("y", "HALF", (-1, 2))
    network.layer("SHAPE", [y], "shape", "INT64", (2,))
    part: dict[str, Any] = {"start": [0], "shape": [1], "stride": [1], "mode": "STRICT_BOUNDS", "axes": None}
    network.layer("SLICE", ["shape"], "rows", "INT64", (1,), **part)
    network.constant("rest", i64(-1))
    network.layer("CONCATENATION", ["rows", "rest"], "dims", "INT64", (2,), axis=0)
    network.layer("SHUFFLE", [x, "dims"], "z", "HALF", (-1, -1), **PLAIN)
    context = network.engine("z").create_execution_context()
    assert context.get_tensor_shape("z") == (-1, -1)
    given = {"x": torch.randn(3, 2, 4).half(), "y": torch.zeros(6, 2).half()}
    bound = bind(context, given)
    assert context.get_tensor_shape("z") == (6, 4)
    assert context.execute_async_v3(0) and torch.equal(bound["z"], given["x"].reshape(6, 4))
    assert context.set_input_shape("y", (2, 2)) and context.get_tensor_shape("z") == (2, 12)
    assert (x, y) == ("x", "y")


def test_dims_that_depend_on_values_are_refused_when_the_engine_is_made():
    network = Network()
    network.input("x", "FLOAT", (2, 3))
    network.input("dims", "INT64", (2,))
    network.layer("SHUFFLE", ["x", "dims"], "y", "FLOAT", (-1, -1), **PLAIN)
    with pytest.raises(TargetError, match="'layer y' \\(SHUFFLE\\) takes its shape from the values of 'dims'"):
        network.engine("y")


def test_shape_is_int64():
    result = evaluate("SHAPE", [torch.zeros(2, 0, 5)], "INT64", (3,))
    assert result.dtype == torch.int64 and result.tolist() == [2, 0, 5]


def test_squeeze_and_unsqueeze():
    x = torch.arange(6.0).reshape(1, 2, 1, 3)
    assert torch.equal(evaluate("SQUEEZE", [x, i64(0, -2)], "FLOAT", (2, 3), constants=[1]), x[0, :, 0])
    y = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(evaluate("UNSQUEEZE", [y, i64(0, -1)], "FLOAT", (1, 2, 3, 1), constants=[1]), y[None, ..., None])
    assert evaluate("UNSQUEEZE", [torch.tensor(2.0), i64(0)], "FLOAT", (1,), constants=[1]).tolist() == [2.0]


@pytest.mark.parametrize("axes", [(1,), (0, 0), (4,)])
def test_squeeze_refuses_axes_that_do_not_fit(axes):
    with pytest.raises(TargetError, match="axes"):
        evaluate("SQUEEZE", [torch.ones(1, 2), i64(*axes)], "FLOAT", (2,), constants=[1])


@pytest.mark.parametrize("axis", [0, 1])
def test_concatenation(axis):
    parts = [torch.arange(6).reshape(2, 3), torch.arange(6).reshape(2, 3) + 6]
    shape = (4, 3) if axis == 0 else (2, 6)
    assert torch.equal(evaluate("CONCATENATION", parts, "INT64", shape, axis=axis), torch.cat(parts, axis))


LINSPACE: dict[str, Any] = {"operation": "LINSPACE", "alpha": 0.0, "beta": 1.0}


@pytest.mark.parametrize("dtype", ["FLOAT", "INT32", "INT64"])
def test_fill_with_what_is_set(dtype):
    result = evaluate("FILL", [], dtype, (4,), operation="LINSPACE", alpha=3, beta=2, shape=[4], to_type=dtype)
    assert result.dtype == TORCH_TYPES[dtype] and result.tolist() == [3, 5, 7, 9]


def test_fill_takes_shape_start_and_steps_from_its_inputs():
    alpha, beta = torch.tensor(10, dtype=torch.int32), torch.tensor([100, 1], dtype=torch.int32)
    result = evaluate("FILL", [i64(2, 3), alpha, beta], "INT32", (2, 3), constants=[0], **LINSPACE, shape=None)
    assert result.tolist() == [[10, 11, 12], [110, 111, 112]]


def test_fill_starts_from_a_value_known_at_run_time_only():
    alpha = torch.tensor(5, dtype=torch.int64)
    assert evaluate("FILL", [None, alpha], "INT64", (3,), **LINSPACE, shape=[3]).tolist() == [5, 6, 7]


def test_fill_of_no_element_and_of_one():
    assert evaluate("FILL", [], "FLOAT", (0,), **LINSPACE, shape=[0]).tolist() == []
    assert evaluate("FILL", [], "FLOAT", (), operation="LINSPACE", alpha=7.0, beta=1.0, shape=[]).item() == 7
