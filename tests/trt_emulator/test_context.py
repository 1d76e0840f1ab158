"""Shapes, profiles, addresses and runs, as an execution context has them."""

import pytest
import torch

from tests.trt_emulator.networks import Network, bind


@pytest.fixture
def log():
    return []


@pytest.fixture
def context(log):
    """Of y = x + b with x [-1, 4], b [1, 4], and profiles for 1 row and for 2 to 8 rows."""
    network = Network()
    network.input("x", "HALF", (-1, 4))
    network.input("b", "HALF", (1, 4))
    network.layer("ELEMENTWISE", ["x", "b"], "y", "HALF", (-1, 4), op="SUM")
    network.profile(x=([1, 4], [1, 4], [1, 4]), b=([1, 4], [1, 4], [1, 4]))
    network.profile(x=([2, 4], [4, 4], [8, 4]))
    return network.engine("y", log=log).create_execution_context()


def test_shapes_are_needed_for_dynamic_inputs_only(context):
    assert context.infer_shapes() == ["x"] and not context.all_binding_shapes_specified
    assert context.get_tensor_shape("x") == context.get_tensor_shape("y") == (-1, 4)
    assert context.get_tensor_shape("b") == (1, 4)
    assert context.set_input_shape("x", [1, 4])
    assert context.infer_shapes() == [] and context.all_binding_shapes_specified
    assert context.get_tensor_shape("x") == context.get_tensor_shape("y") == (1, 4)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "x",
            (2, 4),
            "dimensions [2, 4] for tensor x do not satisfy optimization profile 0: the valid range is [1, 4]",
        ),
        ("x", (1, 5), "static dimension mismatch for x: set dimensions are [1, 5], expected dimensions are [-1, 4]"),
        ("x", (1, 4, 1), "static dimension mismatch for x"),
        ("b", (2, 4), "static dimension mismatch for b"),
        ("y", (1, 4), "y is not an input"),
        ("z", (1, 4), "z is not an input"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(context, log, name, shape, message):
    assert not context.set_input_shape(name, shape)
    assert len(log) == 1 and message in log[0] and context.infer_shapes() == ["x"]


def test_profiles(context, log):
    assert context.active_optimization_profile == 0
    assert context.set_input_shape("x", (1, 4))
    assert context.set_optimization_profile_async(1, 0)
    assert context.active_optimization_profile == 1 and context.infer_shapes() == ["x"]
    assert context.set_input_shape("x", (8, 4)) and not context.set_input_shape("x", (9, 4))
    assert context.get_tensor_shape("y") == (8, 4)
    assert "[2, 4]..[8, 4]" in log[0]
    assert not context.set_optimization_profile_async(2, 0) and "profile index 2 is not in [0, 1]" in log[1]
    assert context.active_optimization_profile == 1


def test_shapes_and_addresses_must_be_set_before_a_run(context, log):
    assert not context.execute_async_v3(0) and "shapes of these inputs are not set: x" in log[-1]
    assert context.set_input_shape("x", (1, 4))
    assert context.set_tensor_address("x", 4096) and context.get_tensor_address("x") == 4096
    assert context.get_tensor_address("y") == 0
    assert not context.execute_async_v3(0) and "addresses of these tensors are not set: b, y" in log[-1]
    assert not context.set_tensor_address("z", 1) and "z is not an input or output" in log[-1]


def test_runs_read_and_write_the_memory_they_are_given(context):
    x, b = torch.ones(1, 4).half(), torch.arange(4).half().reshape(1, 4)
    bound = bind(context, {"x": x, "b": b})
    assert context.execute_async_v3(0) and bound["y"].tolist() == [[1, 2, 3, 4]]
    x.fill_(10)
    other = torch.empty(1, 4).half()
    assert context.set_tensor_address("y", other.data_ptr())
    assert context.execute_async_v3(0)
    assert other.tolist() == [[10, 11, 12, 13]] and bound["y"].tolist() == [[1, 2, 3, 4]]


def test_shapes_can_change_between_runs(context):
    assert context.set_optimization_profile_async(1, 0)
    for rows in (2, 8, 3):
        bound = bind(context, {"x": torch.ones(rows, 4).half(), "b": torch.ones(1, 4).half()})
        assert bound["y"].shape == (rows, 4) and context.execute_async_v3(0) and (bound["y"] == 2).all()


def test_contexts_share_an_engine_and_nothing_else(context):
    other = context.engine.create_execution_context()
    assert other.engine is context.engine
    assert other.set_input_shape("x", (1, 4)) and context.infer_shapes() == ["x"]
