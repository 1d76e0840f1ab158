"""What frontends build models of takes values of the shape that it says, and no others in silence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler.errors import ConfigError, GraphError
from compiler.frontends import frontend, lift, open_checkpoint
from compiler.frontends.attention import Attention
from compiler.frontends.config import Size
from compiler.frontends.lifting import Lifting
from compiler.frontends.modules import embed, layer_norm, learned_positions, linear
from compiler.frontends.step import B, C, ModelShape, S, StepBuilder
from compiler.ir.dtypes import DType
from compiler.ir.op import Value
from compiler.ir.types import TensorType
from tests.registrations import forgotten

# Heads and their width are equal, so that no size tells which is which.
HEADS, KV_HEADS, WIDTH, HIDDEN = 4, 2, 4, 16
SHAPE = ModelShape(
    vocab=Size(32, "vocab"),
    context=16,
    layers=1,
    hidden=Size(HIDDEN, "hidden"),
    heads=HEADS,
    kv_heads=KV_HEADS,
    head_dim=WIDTH,
    positions="alibi",
)


class Kit:
    """A model under construction, and values of all sorts."""

    def __init__(self, step: StepBuilder) -> None:
        self.step, self.b = step, step.b
        self.x, _ = embed(step, "embed", HIDDEN)
        self.attention = Attention(scale=0.5, mask=step.causal_mask(), bias=step.alibi([0.5, 0.25, 0.1, 0.05]))
        self.q, self.k, self.v = (
            linear(step, self.x, f"{name}_proj", heads * WIDTH, HIDDEN, name=name, bias=False)
            for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS))
        )

    def split(self, x: Value, heads: int) -> Value:
        """`[B,heads,S,head_dim]`."""
        rows = self.b.reshape(x, shape=(B, S, heads, WIDTH))
        return self.b.transpose(rows, perm=(0, 2, 1, 3))


@pytest.fixture
def build(tmp_path: Path) -> Callable[[Callable[[Kit], Any]], None]:
    def build(action: Callable[[Kit], Any], shape: ModelShape = SHAPE) -> None:
        def lift_it(lifting: Lifting) -> None:
            kit = Kit(lifting.begin(shape))
            action(kit)
            rows = kit.step.logit_rows(kit.x)
            table = kit.step.weights.take("head.weight", 32, HIDDEN, name="head")
            lifting.finish(kit.step, kit.b.linear(rows, table, name="logits"))

        (tmp_path / "config.json").write_text(json.dumps({"model_type": "kit"}))
        with forgotten():
            frontend("kit")(lift_it)
            lift(open_checkpoint(tmp_path, dummy_weights=True))

    return build


def test_the_right_shapes(build) -> None:
    made: list[Value] = []
    build(lambda kit: made.append(kit.attention.cached(kit.step, 0, kit.q, kit.k, kit.v)))
    assert [value.type for value in made] == [TensorType(DType.f16, (B, S, HEADS * WIDTH))]


def ones(kit: Kit, *shape: Any) -> Value:
    one = kit.b.literal(dtype=DType.f16, shape=(1,) * len(shape), values=(1.0,))
    return kit.b.broadcast(one, shape=shape)


MISUSES: dict[str, tuple[Callable[[Kit], Any], str]] = {
    "queries that are split into heads": (
        lambda kit: kit.attention.cached(kit.step, 0, kit.split(kit.q, HEADS), kit.k, kit.v),
        "queries, before they are split into heads, must be [B,S,16]; %transpose is f16[B,4,S,4]",
    ),
    "keys that are split into heads": (
        lambda kit: kit.attention.cached(kit.step, 0, kit.q, kit.split(kit.k, KV_HEADS), kit.v),
        "keys, before they are split into heads, must be [B,S,8]; %transpose is f16[B,2,S,4]",
    ),
    "values as wide as queries": (
        lambda kit: kit.attention.cached(kit.step, 0, kit.q, kit.k, kit.q),
        "values, before they are split into heads, must be [B,S,8]; %q is f16[B,S,16]",
    ),
    "attention over rows": (
        lambda kit: kit.attention(kit.step, kit.q, *kit.step.caches[0]),
        "queries, split into heads, must be [B,4,S,4]; %q is f16[B,S,16]",
    ),
    "attention over new keys": (
        lambda kit: kit.attention(kit.step, kit.split(kit.q, HEADS), kit.split(kit.k, KV_HEADS), kit.step.caches[0][1]),
        "the cache of keys must be [B,2,C,4]; %transpose_2 is f16[B,2,S,4]",
    ),
    "a mask without heads": (
        lambda kit: replace(kit.attention, mask=kit.b.reshape(kit.attention.mask, shape=(B, S, C)))(
            kit.step, kit.split(kit.q, HEADS), *kit.step.caches[0]
        ),
        "the mask must be [B,4,S,C], or 1 in place of some dims; %reshape is bool[B,S,C]",
    ),
    "a bias of other heads": (
        lambda kit: replace(kit.attention, bias=ones(kit, B, 2, S, C))(
            kit.step, kit.split(kit.q, HEADS), *kit.step.caches[0]
        ),
        "the bias of scores must be [B,4,S,C], or 1 in place of some dims; %broadcast is f16[B,2,S,C]",
    ),
    "new keys before they are split": (
        lambda kit: kit.step.update_cache(0, kit.k, kit.v),
        "new keys must be [B,2,S,4]; %k is f16[B,S,8]",
    ),
    "the caches of another layer": (
        lambda kit: kit.step.update_cache(7, kit.k, kit.v),
        "the caches of layer 7 do not exist",
    ),
    "the caches of a layer twice": (
        lambda kit: [kit.attention.cached(kit.step, 0, kit.q, kit.k, kit.v) for _ in range(2)],
        "the caches of layer 0 were updated already",
    ),
    "logits of heads": (
        lambda kit: kit.step.logit_rows(kit.split(kit.q, HEADS)),
        "what logits are computed from must be [B,S,width]; %transpose is f16[B,4,S,4]",
    ),
    "one slope for all heads": (
        lambda kit: kit.step.alibi([0.5]),
        "ALiBi takes a slope for each of the 4 heads; 1 were given",
    ),
    "a window without the token itself": (
        lambda kit: kit.step.causal_mask(-1),
        "a query that sees -1 positions back does not see itself",
    ),
    "a norm of other rows": (
        lambda kit: layer_norm(kit.step, kit.k, "norm", HIDDEN, scope="n", eps=1e-5, weight=False, bias=False),
        "norm normalizes rows of 16; %k is f16[B,S,8]",
    ),
    "positions that the shape does not know of": (
        lambda kit: learned_positions(kit.step, "positions", 16, HIDDEN),
        "positions has learned 16 positions, and ModelShape.learned is None",
    ),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_other_shapes_are_refused(build, misuse: str) -> None:
    action, message = MISUSES[misuse]
    with pytest.raises(GraphError) as caught:
        build(action)
    start = "the frontend of 'kit' fails: "
    assert caught.value.message.startswith(start + message), caught.value.message
    assert re.search(r"\(tests/frontends/test_helpers\.py, line \d+\)$", caught.value.message)


def test_a_layer_that_updates_no_cache(build) -> None:
    with pytest.raises(GraphError) as caught:
        build(lambda kit: None)
    assert caught.value.message.startswith(
        "the frontend of 'kit' made no step of a model: the cache 'cache.0.k' has no next state"
    )


def test_key_heads_divide_query_heads() -> None:
    with pytest.raises(ConfigError, match="3 key heads do not divide the model's 4 query heads"):
        replace(SHAPE, kv_heads=3)
