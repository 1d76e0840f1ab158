"""What is refused when an engine is made, and how a run goes."""

import gc
import weakref

import pytest
import torch

from compiler.errors import TargetError
from compiler.trt_network.record import LayerRecord, TensorRecord, Weight
from tests.trt_emulator.networks import Network, bind


def one(kind, outputs=("y",), inputs=("x", "x"), dtype="FLOAT", **params):
    network = Network()
    network.input("x", "FLOAT", (2,))
    network.tensors["y"] = TensorRecord("y", dtype, (2,))
    network.layers.append(LayerRecord("the layer", kind, inputs, outputs, params))
    return network


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (one("CONVOLUTION"), r"'the layer' \(CONVOLUTION\) is of a kind that the emulator lacks"),
        (one("ELEMENTWISE", op="MODULO"), r"'the layer' \(ELEMENTWISE\) has op = MODULO"),
        (one("ELEMENTWISE"), r"'the layer' \(ELEMENTWISE\) has op = None"),
        (one("ACTIVATION", type="RELU", alpha=0.0), "has no property 'beta'"),
        (one("CONCATENATION"), "has no property 'axis'"),
        (one("SOFTMAX", axes=3), "has axes = 3"),
        (one("CAST", to_type="FP8"), "has to_type = FP8"),
        (one("ATTENTION", norm_op="SOFTMAX", causal_kind="NONE", query_form="PACKED_NHD"), "query_form = PACKED_NHD"),
        (
            one("ATTENTION", norm_op="SOFTMAX", causal_kind="NONE", normalization_quantize_to_type="FP8"),
            "_to_type = FP8",
        ),
        (one("NORMALIZATION", axes=1, epsilon=0.1, num_groups=4), "num_groups = 4"),
        (one("NORMALIZATION", axes=1, epsilon=0.1, compute_precision="HALF"), "compute_precision = HALF"),
        (
            one("ELEMENTWISE", op="SUM", saturate=True),
            "has saturate = True, a property that the emulator does not know",
        ),
        (one("DEQUANTIZE", axis=0, to_type="FLOAT", block_shape=[2]), r"block_shape = \[2\]"),
        (one("DEQUANTIZE", axis=0, to_type="FLOAT", inputs=("x", "x", "x")), "reads 'x' as its input 2, which the"),
        (one("CAST", to_type="HALF", inputs=("x",)), "has to_type = HALF and makes FLOAT"),
        (one("FILL", operation="LINSPACE", shape=[2], alpha=0, beta=1, to_type="INT32", inputs=()), "to_type = INT32"),
        (one("IDENTITY", dtype="FP4"), "tensor 'y' is of type FP4"),
        (one("IDENTITY", dtype="INT4"), "'y' is an input or output of type INT4"),
        (one("IDENTITY", inputs=("y",)), "reads 'y' before it is made"),
        (one("IDENTITY", inputs=("z",)), "has an unknown tensor 'z'"),
        (one("IDENTITY", inputs=("x",), outputs=("y", "x")), "makes 2 tensors"),
        (one("IDENTITY", inputs=("x",), outputs=("x",)), "no layer makes the output 'y'"),
    ],
)
def test_what_the_emulator_lacks_is_refused_before_anything_runs(network, message):
    with pytest.raises(TargetError, match=message) as error:
        network.engine("y")
    assert error.value.hint


def chain(length=4):
    network = Network()
    name = network.input("x", "FLOAT", (-1,))
    for i in range(length):
        name = network.layer("UNARY", [name], f"t{i}", "FLOAT", (-1,), op="NEG")
    return network


def test_every_layer_is_observed_in_order():
    context = chain().engine("t3").create_execution_context()
    seen = []
    context.observe = lambda layer, made: seen.append((layer.name, made[0].tolist()))
    bind(context, {"x": torch.tensor([1.0])})
    assert context.execute_async_v3(0)
    assert seen == [("layer t0", [-1]), ("layer t1", [1]), ("layer t2", [-1]), ("layer t3", [1])]


def test_intermediates_are_dropped_after_their_last_use():
    context = chain(8).engine("t7").create_execution_context()
    made, alive = [], []

    def observe(layer, tensors):
        made.append(weakref.ref(tensors[0]))
        gc.collect()
        alive.append(sum(ref() is not None for ref in made))

    context.observe = observe
    bind(context, {"x": torch.ones(2)})
    assert context.execute_async_v3(0) and max(alive) <= 2


def test_outputs_that_are_read_on_are_kept():
    context = chain().engine("t1", "t3", "t0").create_execution_context()
    bound = bind(context, {"x": torch.tensor([5.0])})
    assert context.execute_async_v3(0)
    assert [bound[name].item() for name in ("t0", "t1", "t3")] == [-5, 5, 5]


def test_a_layer_given_what_it_cannot_take_is_named():
    network = Network()
    network.input("a", "FLOAT", (-1, 3))
    network.input("b", "FLOAT", (-1, 3))
    network.layer("ELEMENTWISE", ["a", "b"], "y", "FLOAT", (-1, 3), op="SUM")
    context = network.engine("y").create_execution_context()
    assert context.set_input_shape("a", (2, 3)) and context.set_input_shape("b", (4, 3))
    with pytest.raises(TargetError, match=r"'layer y' \(ELEMENTWISE\) cannot be evaluated on .*\[2, 3\].*\[4, 3\]"):
        context.get_tensor_shape("y")


def test_what_a_layer_makes_must_be_what_was_recorded():
    network = Network()
    network.input("x", "FLOAT", (-1,))
    network.layer("IDENTITY", ["x"], "y", "FLOAT", (5,))
    network.layer("UNARY", ["x"], "z", "FLOAT", (-1,), op="NEG")
    context = network.engine("y", "z").create_execution_context()
    assert context.set_input_shape("x", (4,))
    with pytest.raises(TargetError, match=r"made dims \[4\] where the record says \[5\]"):
        context.get_tensor_shape("z")


def test_an_input_that_is_missing_is_named():
    context = one("ELEMENTWISE", inputs=("x", None), op="SUM").engine("y").create_execution_context()
    bind(context, {"x": torch.ones(2)})
    with pytest.raises(TargetError, match=r"'the layer' \(ELEMENTWISE\) needs its input 1"):
        context.execute_async_v3(0)


def test_properties_that_change_nothing_are_let_through():
    network = one("IDENTITY", inputs=("x",), precision="FLOAT", precision_is_set=False, other=None)
    context = network.engine("y").create_execution_context()
    bound = bind(context, {"x": torch.tensor([1.0, 2.0])})
    assert context.execute_async_v3(0) and bound["y"].tolist() == [1, 2]


def test_weights_are_inputs_of_fixed_shape():
    network = one("IDENTITY", inputs=("x",))
    network.weights["w"] = Weight("w")
    with pytest.raises(TargetError, match="weight 'w' is no input of fixed shape"):
        network.engine("y")
    network.weight("w", "FLOAT", (-1,))
    with pytest.raises(TargetError, match="weight 'w' is no input of fixed shape"):
        network.engine("y")


def test_shapes_are_inferred_only_where_some_are_dynamic():
    network = one("IDENTITY", inputs=("x",))
    network.layer("IDENTITY", ["x"], "wrong", "FLOAT", (3,))
    context = network.engine("y", "wrong").create_execution_context()
    assert context.get_tensor_shape("wrong") == (3,)
    bind(context, {"x": torch.ones(2)})
    with pytest.raises(TargetError, match=r"made dims \[2\] where the record says \[3\]"):
        context.execute_async_v3(0)
