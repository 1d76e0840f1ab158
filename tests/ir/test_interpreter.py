"""The interpreter against plain torch, and what it says when something is wrong."""

import math

import pytest
import torch

from compiler.errors import GraphError
from compiler.ir.builder import Builder
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange
from compiler.ir.interpreter import Interpreter
from compiler.ir.torch_types import from_torch


def computed(kind, *tensors, **attrs):
    """The result of one op on the given tensors."""
    b = Builder()
    inputs = [b.input(f"x{i}", from_torch(t.dtype), *t.shape) for i, t in enumerate(tensors)]
    b.output("y", getattr(b, kind)(*inputs, **attrs))
    return Interpreter(b.build(), accumulate=torch.float64)({f"x{i}": t for i, t in enumerate(tensors)})["y"]


def noise(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(math.prod(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def test_gelu_is_the_normal_distribution_function():
    x = noise(50)
    exact = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    torch.testing.assert_close(computed("gelu", x), exact)
    approximate = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    torch.testing.assert_close(computed("gelu", x, tanh=True), approximate)


def test_norms_follow_their_formulas():
    x, weight, bias = noise(3, 8), noise(8), noise(2, 8)[0]
    centred = x - x.mean(-1, keepdim=True)
    layer = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-3) * weight + bias
    torch.testing.assert_close(computed("layer_norm", x, weight, bias, eps=1e-3), layer)
    rms = x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-3) * weight
    torch.testing.assert_close(computed("rms_norm", x, weight, eps=1e-3), rms)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_turns_each_pair_by_its_angle(interleaved):
    x, angles = noise(2, 3, 5, 8), noise(2, 5, 2, dtype=torch.float32)
    y = computed("rotary", x, angles.cos(), angles.sin(), interleaved=interleaved)
    pairs = [(0, 1), (2, 3)] if interleaved else [(0, 2), (1, 3)]
    for i, (first, second) in enumerate(pairs):
        point = torch.complex(x[..., first], x[..., second])
        turn = torch.complex(angles.cos().double(), angles.sin().double())[:, None, :, i]
        torch.testing.assert_close(torch.complex(y[..., first], y[..., second]), point * turn)
    assert torch.equal(y[..., 4:], x[..., 4:])


def test_attention_is_its_primitives_with_shared_key_heads():
    q, k, v, bias = noise(2, 4, 3, 8), noise(2, 2, 5, 8), noise(2, 2, 5, 6), noise(4, 1, 5)
    mask = torch.ones(3, 5, dtype=torch.bool).tril(2)
    y = computed("attention", q, k, v, mask, bias, scale=0.25)
    for head in range(4):
        scores = q[:, head] @ k[:, head // 2].mT * 0.25 + bias[head]
        probs = torch.softmax(torch.where(mask, scores, -torch.inf), -1)
        torch.testing.assert_close(y[:, head], probs @ v[:, head // 2])


def test_kv_update_writes_only_the_rows_that_are_new():
    cache, new = torch.zeros(2, 1, 4, 1), torch.tensor([[1.0, 2, 3], [4, 5, 6]])[:, None, :, None]
    at, count = torch.tensor([1, 2], dtype=torch.int32), torch.tensor([3, 1], dtype=torch.int32)
    assert computed("kv_update", cache, new, at, count).flatten(1).tolist() == [[0, 1, 2, 3], [0, 0, 4, 0]]
    with pytest.raises(GraphError, match=r"positions \[2, 5\) of a cache of 4"):
        computed("kv_update", cache, new, at, torch.tensor([3, 3], dtype=torch.int32))


def test_half_precision_results_are_rounded_once():
    # 2048 + 1 + 1 is 2048 when every addition rounds to float16, 2050 when only the result does.
    x = torch.tensor([[2048.0, 1.0, 1.0]], dtype=torch.float16)
    assert computed("linear", x, torch.ones(1, 3, dtype=torch.float16)).item() == 2050


def test_exact_never_rounds():
    b = Builder()
    x = b.input("x", DType.f16, 1)
    b.output("y", b.scale(x, factor=1 / 3))
    one = torch.ones(1, dtype=torch.float16)
    assert Interpreter(b.build(), accumulate=torch.float64, exact=True)({"x": one})["y"].item() == 1 / 3
    assert Interpreter(b.build(), accumulate=torch.float64)({"x": one})["y"].item() != 1 / 3


def test_random_weights_have_the_moments_that_were_asked_for():
    b = Builder()
    b.output("y", b.random(key="w", dtype=DType.f32, shape=(300, 500), mean=1.0, std=0.02))
    y = Interpreter(b.build())({})["y"]
    # The mean of 65,537 draws is off by std / 256 at one sigma; five sigmas, and as much for the deviation.
    assert abs(y.mean().item() - 1) < 5 * 0.02 / 256
    assert abs(y.std().item() / 0.02 - 1) < 0.02
    assert not torch.equal(y[0], y[1])


def test_observers_see_every_op_with_its_values():
    b = Builder()
    x = b.input("x", DType.f32, 2)
    b.output("y", b.scale(b.relu(x), factor=3.0))
    seen = []
    Interpreter(b.build(), observers=[lambda op, operands, results: seen.append((op.kind.name, results[0].tolist()))])(
        {"x": torch.tensor([-1.0, 2.0])}
    )
    assert seen == [("relu", [0.0, 2.0]), ("scale", [0.0, 6.0])]


def test_constants_that_are_not_kept_are_made_anew_by_each_call():
    b = Builder()
    x = b.input("x", DType.f32, 2)
    weight = b.random(key="w", dtype=DType.f32, shape=(2,), name="weight")
    b.output("y", b.add(x, weight))
    graph, made = b.build(), list[str]()
    for keep in (True, False):
        run = Interpreter(graph, keep_constants=keep, observers=[lambda op, operands, results: made.append(op.name)])
        results = [run({"x": torch.ones(2)})["y"] for _ in range(2)]
        assert torch.equal(*results)
        assert made.count("weight") == (1 if keep else 2)
        made.clear()


def test_inputs_are_checked():
    b = Builder()
    b.dims = {"B": DimRange(1, 1, 4)}
    x, y = b.input("x", DType.f32, symbol("B"), 2), b.input("y", DType.f32, symbol("B"), 2)
    b.output("z", b.add(x, y))
    run = Interpreter(b.build())
    good = torch.ones(3, 2)
    with pytest.raises(GraphError, match="the input %y is missing"):
        run({"x": good})
    with pytest.raises(GraphError, match="the graph has no input z"):
        run({"x": good, "y": good, "z": good})
    with pytest.raises(GraphError, match=r"the input %x is f32\[B,2\]; a torch.float64 of \[3, 2\] was given"):
        run({"x": good.double(), "y": good})
    with pytest.raises(GraphError, match=r"the input %y is f32\[B,2\]; \[2, 2\] was given"):
        run({"x": good, "y": torch.ones(2, 2)})


def test_a_failure_names_the_op_and_where_it_comes_from():
    b = Builder()
    b.dims = {"B": DimRange(1, 1, 4)}
    x = b.input("x", DType.i32, symbol("B"))
    table = b.literal(dtype=DType.f32, shape=(2, 2), values=(0.0,))
    with b.scope("embed", "transformer.wte"):
        b.output("y", b.embedding(table, x, name="tokens"))
    with pytest.raises(GraphError, match=r"failed at embedding %embed.tokens from transformer.wte: "):
        Interpreter(b.build())({"x": torch.tensor([7], dtype=torch.int32)})
