"""Rotary embeddings, cache updates and attention."""

import math

import pytest
import torch

from compiler.errors import TargetError
from compiler.trt_emulator.memory import TORCH_TYPES
from tests.trt_emulator.networks import Network, bind, evaluate

FLOATS = ["FLOAT", "HALF", "BF16"]


def random(dtype, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(TORCH_TYPES[dtype])


def near(result, exact, dtype):
    eps = torch.finfo(TORCH_TYPES[dtype]).eps
    assert result.dtype == TORCH_TYPES[dtype]
    torch.testing.assert_close(
        result.double(), exact.to(TORCH_TYPES[dtype]).double(), rtol=max(eps, 1e-5), atol=1e-5 + eps / 8
    )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("size", [0, 4])
@pytest.mark.parametrize("positions", [None, torch.tensor([[0, 1, 2], [6, 7, 8]])])
def test_rotary_embedding(positions, size, interleaved, dtype):
    x, rotary = random(dtype, 2, 3, 3, 8), size or 8
    rows = torch.arange(9)[:, None] / 3.0 ** torch.arange(rotary // 2)
    angles = rows if positions is not None else torch.stack([rows[:3], rows[4:7]])
    cos, sin = angles.cos().to(TORCH_TYPES[dtype]), angles.sin().to(TORCH_TYPES[dtype])
    exact = x.double().clone()
    for b in range(2):
        for s in range(3):
            row = (cos, sin) if positions is not None else (cos[b], sin[b])
            place = positions[b, s] if positions is not None else s
            for i in range(rotary // 2):
                c, d = row[0][place, i].double(), row[1][place, i].double()
                first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + rotary // 2)
                u, w = x[b, :, s, first].double(), x[b, :, s, second].double()
                exact[b, :, s, first], exact[b, :, s, second] = u * c - w * d, u * d + w * c
    inputs = [x, cos, sin] + ([] if positions is None else [positions])
    params = {"interleaved": interleaved, "rotary_embedding_dim": size}
    near(evaluate("ROTARY_EMBEDDING", inputs, dtype, x.shape, **params), exact, dtype)


def test_positions_beyond_the_table():
    inputs = [torch.ones(1, 1, 1, 4), torch.ones(3, 2), torch.ones(3, 2), torch.tensor([[3]])]
    with pytest.raises(TargetError, match=r"\(ROTARY_EMBEDDING\) has positions from 3 to 3 for 3 rows"):
        evaluate("ROTARY_EMBEDDING", inputs, "FLOAT", (1, 1, 1, 4), interleaved=False, rotary_embedding_dim=0)


def cached(dtype="FLOAT", capacity=5):
    network = Network()
    network.input("cache", dtype, (-1, 2, capacity, 3))
    network.input("update", dtype, (-1, 2, -1, 3))
    network.input("indices", "INT32", (-1,))
    network.layer(
        "KV_CACHE_UPDATE", ["cache", "update", "indices"], "new", dtype, (-1, 2, capacity, 3), cache_mode="LINEAR"
    )
    network.layer("UNARY", ["new"], "negative", dtype, (-1, 2, capacity, 3), op="NEG")
    return network


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_cache_is_updated_in_place(dtype):
    engine = cached(dtype).engine("new", "negative")
    assert engine.get_aliased_input_tensor("new") == "cache" and engine.get_aliased_input_tensor("negative") is None
    context = engine.create_execution_context()
    cache, update = random(dtype, 2, 2, 5, 3), random(dtype, 2, 2, 2, 3)
    exact = cache.clone()
    exact[0, :, 0:2], exact[1, :, 3:5] = update[0], update[1]
    bound = bind(context, {"cache": cache, "update": update, "indices": torch.tensor([0, 3], dtype=torch.int32)})
    assert context.get_tensor_shape("new") == (2, 2, 5, 3)
    assert context.execute_async_v3(0)
    assert torch.equal(cache, exact) and torch.equal(bound["negative"], -exact)


def updated(start, count, capacity=5):
    """A cache of one head and one element a position, filled with 0, after an update with 1, 2, 3 and so on."""
    network = Network()
    network.input("cache", "FLOAT", (1, 1, capacity, 1))
    network.input("update", "FLOAT", (1, 1, -1, 1))
    network.input("at", "INT32", (1,))
    shape = (1, 1, capacity, 1)
    network.layer("KV_CACHE_UPDATE", ["cache", "update", "at"], "new", "FLOAT", shape, cache_mode="LINEAR")
    context = network.engine("new").create_execution_context()
    update, at = torch.arange(1.0, count + 1).reshape(1, 1, -1, 1), torch.tensor([start], dtype=torch.int32)
    bound = bind(context, {"cache": torch.zeros(shape), "update": update, "at": at})
    assert context.execute_async_v3(0)
    return bound["cache"].flatten().tolist()


@pytest.mark.parametrize(
    ("start", "count", "wanted"),
    [
        (0, 3, [1, 2, 3, 0, 0]),
        (4, 3, [0, 0, 0, 0, 1]),
        (5, 2, [0, 0, 0, 0, 0]),
        (2**31 - 1, 2, [0, 0, 0, 0, 0]),
        (0, 7, [1, 2, 3, 4, 5]),
        (-1, 1, [0, 0, 0, 0, 1]),
        (-2, 2, [0, 0, 0, 1, 2]),
        (-1, 3, [2, 3, 0, 0, 1]),
        (-7, 3, [3, 0, 0, 0, 0]),
    ],
)
def test_positions_past_the_cache_are_dropped_and_negative_ones_wrap(start, count, wanted):
    assert updated(start, count) == wanted


def test_a_cache_output_must_be_bound_to_its_input():
    log: list[str] = []
    context = cached().engine("new", log=log).create_execution_context()
    cache, elsewhere = torch.zeros(1, 2, 5, 3), torch.zeros(1, 2, 5, 3)
    bind(context, {"cache": cache, "update": torch.ones(1, 2, 1, 3), "indices": torch.zeros(1, dtype=torch.int32)})
    context.set_tensor_address("new", elsewhere.data_ptr())
    assert not context.execute_async_v3(0)
    assert "output new must have the address of input cache" in log[0] and not cache.any() and not elsewhere.any()


def test_only_a_network_input_can_be_a_cache():
    network = Network()
    network.input("x", "FLOAT", (1, 2, 5, 3))
    network.layer("IDENTITY", ["x"], "copy", "FLOAT", (1, 2, 5, 3))
    network.input("i", "INT32", (1,))
    network.layer("KV_CACHE_UPDATE", ["copy", "x", "i"], "new", "FLOAT", (1, 2, 5, 3), cache_mode="LINEAR")
    with pytest.raises(TargetError, match="updates 'copy', which is no network input"):
        network.engine("new")


def reference(q, k, v, visible, bias=None):
    """Attention by loops over heads and queries, in float64; `visible` says whether query i of row b sees key j."""
    result = torch.zeros(*q.shape[:3], v.shape[-1], dtype=torch.float64)
    group = q.shape[1] // k.shape[1]
    for b in range(q.shape[0]):
        for n in range(q.shape[1]):
            for i in range(q.shape[2]):
                keys = [j for j in range(k.shape[2]) if visible(b, n, i, j)]
                if not keys:
                    continue
                scores = k[b, n // group, keys].double() @ q[b, n, i].double()
                scores = scores if bias is None else scores + bias[b % len(bias), n % bias.shape[1], i, keys].double()
                weights = (scores - scores.max()).exp()
                result[b, n, i] = weights / weights.sum() @ v[b, n // group, keys].double()
    return result


def params(kind="NONE", norm="SOFTMAX"):
    return {
        "norm_op": norm,
        "causal_kind": kind,
        "decomposable": True,
        "query_form": "PADDED_BHND",
        "key_value_form": "PADDED_BHND",
    }


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", ["NONE", "UPPER_LEFT", "LOWER_RIGHT"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention(kv_heads, kind, dtype):
    q, k, v = random(dtype, 2, 4, 3, 8), random(dtype, 2, kv_heads, 7, 8), random(dtype, 2, kv_heads, 7, 8) * 2
    last = {"NONE": lambda i: 6, "UPPER_LEFT": lambda i: i, "LOWER_RIGHT": lambda i: i + 7 - 3}[kind]
    exact = reference(q, k, v, lambda b, n, i, j: j <= last(i))
    near(evaluate("ATTENTION", [q, k, v], dtype, q.shape, **params(kind)), exact, dtype)


@pytest.mark.parametrize(
    ("kind", "mask"), [("NONE", None), ("UPPER_LEFT", None), ("LOWER_RIGHT", None), ("NONE", "bool"), ("NONE", "added")]
)
def test_queries_are_taken_some_at_a_time_where_their_scores_would_be_many(monkeypatch, kind, mask):
    q, k, v = random("FLOAT", 2, 4, 7, 8), random("FLOAT", 2, 2, 9, 8), random("FLOAT", 2, 2, 9, 8)
    seen = torch.rand(2, 1, 7, 9, generator=torch.Generator().manual_seed(1)) < 0.7
    given = {None: [], "bool": [seen], "added": [torch.where(seen, 0.5, -1.5)]}[mask]
    whole = evaluate("ATTENTION", [q, k, v, *given], "FLOAT", q.shape, **params(kind))
    for budget in (1, 2 * 4 * 9 * 3):
        monkeypatch.setattr("compiler.trt_emulator.attention.BUDGET", budget)
        parts = evaluate("ATTENTION", [q, k, v, *given], "FLOAT", q.shape, **params(kind))
        torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 4), (2, 4)])
def test_masks(shape, dtype):
    q, k, v = random(dtype, 2, 4, 3, 8), random(dtype, 2, 2, 5, 8), random(dtype, 2, 2, 5, 8) + 1
    keep = torch.rand(*shape, 3, 5, generator=torch.Generator().manual_seed(0)) > 0.4
    exact = reference(q, k, v, lambda b, n, i, j: keep[b % shape[0], n % shape[1], i, j])
    near(evaluate("ATTENTION", [q, k, v, keep], dtype, q.shape, **params()), exact, dtype)
    bias = random(dtype, *shape, 3, 5)
    exact = reference(q, k, v, lambda b, n, i, j: True, bias)
    near(evaluate("ATTENTION", [q, k, v, bias], dtype, q.shape, **params()), exact, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_a_mask_hides_may_be_anything(dtype):
    q, k, v = random(dtype, 1, 2, 1, 4), random(dtype, 1, 2, 3, 4), random(dtype, 1, 2, 3, 4)
    keep = torch.tensor([True, False, True]).reshape(1, 1, 1, 3)
    exact = reference(q, k, v, lambda b, n, i, j: j != 1)
    k[:, :, 1] = math.nan
    near(evaluate("ATTENTION", [q, k, v, keep], dtype, q.shape, **params()), exact, dtype)


@pytest.mark.parametrize(("kind", "last"), [("NONE", 4), ("UPPER_LEFT", 0), ("LOWER_RIGHT", 4)])
def test_one_query_at_the_end_of_the_keys(kind, last):
    q, k = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 5, 2)
    v = torch.arange(5.0).reshape(1, 1, 5, 1)
    assert evaluate("ATTENTION", [q, k, v], "FLOAT", (1, 1, 1, 1), **params(kind)).item() == last / 2


def test_attention_without_softmax():
    q, k, v = torch.tensor([[[[2.0]]]]), torch.tensor([[[[3.0], [4.0]]]]), torch.tensor([[[[10.0], [1.0]]]])
    assert evaluate("ATTENTION", [q, k, v], "FLOAT", (1, 1, 1, 1), **params(norm="NONE")).item() == 68
    assert evaluate("ATTENTION", [q, k, v], "FLOAT", (1, 1, 1, 1), **params("UPPER_LEFT", "NONE")).item() == 60


def test_queries_without_keys_give_zeros():
    x = torch.ones(1, 1, 3, 2)
    keep = torch.tensor([[False] * 3, [False] * 3, [True] * 3]).reshape(1, 1, 3, 3)
    result = evaluate("ATTENTION", [x, x, x, keep], "FLOAT", x.shape, **params())
    assert result[0, 0, :, 0].tolist() == [0, 0, 1]
    q, k = torch.ones(1, 1, 3, 2), torch.ones(1, 1, 1, 2)
    last = evaluate("ATTENTION", [q, k, k], "FLOAT", q.shape, **params("LOWER_RIGHT"))
    assert last[0, 0, :, 0].tolist() == [0, 0, 1]


@pytest.mark.parametrize(("batch", "queries", "keys"), [(0, 3, 5), (2, 0, 5), (2, 3, 0)])
def test_nothing_to_attend(batch, queries, keys):
    q, k, v = torch.ones(batch, 4, queries, 8), torch.ones(batch, 2, keys, 8), torch.ones(batch, 2, keys, 6)
    shape = (batch, 4, queries, 6)
    assert torch.equal(evaluate("ATTENTION", [q, k, v], "FLOAT", shape, **params()), torch.zeros(shape))


@pytest.mark.parametrize("dtype", ["HALF", "BF16"])
def test_scores_stay_in_float32(dtype):
    # Scores of 4096 and 4097 are one number in 16 bits.
    q = torch.tensor([64.0, 1.0]).to(TORCH_TYPES[dtype]).reshape(1, 1, 1, 2)
    k = torch.tensor([[64.0, 0.0], [64.0, 1.0]]).to(TORCH_TYPES[dtype]).reshape(1, 1, 2, 2)
    v = torch.tensor([[0.0], [1.0]]).to(TORCH_TYPES[dtype]).reshape(1, 1, 2, 1)
    result = evaluate("ATTENTION", [q, k, v], dtype, (1, 1, 1, 1), **params())
    near(result, torch.tensor(1 / (1 + math.exp(-1)), dtype=torch.float64).reshape(1, 1, 1, 1), dtype)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            [None, torch.ones(1, dtype=torch.int32)],
            "has key_value_lengths .'input4'., which TensorRT-RTX 1.6.1 computes",
        ),
        ([None, None, torch.ones(2, dtype=torch.int32)], "reads 'input5' as its input 5"),
    ],
)
def test_lengths_are_refused(extra, message):
    x = torch.ones(1, 1, 3, 2)
    with pytest.raises(TargetError, match=r"\(ATTENTION\) " + message):
        evaluate("ATTENTION", [x, x, x, *extra], "FLOAT", x.shape, **params())


def test_a_mask_excludes_a_causal_kind():
    x = torch.ones(1, 1, 3, 2)
    with pytest.raises(TargetError, match=r"\(ATTENTION\) has both a mask and a causal kind"):
        evaluate("ATTENTION", [x, x, x, torch.ones(1, 1, 3, 3) > 0], "FLOAT", x.shape, **params("UPPER_LEFT"))
