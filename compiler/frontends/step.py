"""The step graph under construction: its inputs, and what all layers share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from compiler.errors import ConfigError, GraphError
from compiler.frontends.config import Size
from compiler.frontends.rope import Rope
from compiler.frontends.weights import Weights
from compiler.ir.builder import Builder
from compiler.ir.cache_layout import LINEAR, cache_name
from compiler.ir.dims import Dim, shape_text
from compiler.ir.dtypes import DType
from compiler.ir.op import Value
from compiler.ir.step import LOGIT_POS, NEW_LEN, PAST_LEN, STEP_INPUTS, TOKEN_IDS, B, C, S

__all__ = ["B", "C", "ModelShape", "S", "StepBuilder", "expect"]


@dataclass(frozen=True)
class ModelShape:
    """What a model's config says about its size.

    Attributes:
        learned: how many positions have an embedding; None if positions are computed.
        positions: how positions enter: `rotary`, `learned`, `alibi`, several joined by `+`, or `none`.
        cached: the layers that keep keys and values of their own; None for all.

    Raises:
        ConfigError: if the key heads do not divide the query heads.
    """

    vocab: Size
    context: int
    layers: int
    hidden: Size
    heads: int
    kv_heads: int
    head_dim: int
    positions: str
    learned: int | None = None
    cached: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ConfigError(f"{self.kv_heads} key heads do not divide the model's {self.heads} query heads")


def expect(what: str, value: Value, *shape: Dim) -> None:
    """GraphError, saying what it is, if a value has another shape than a helper takes."""
    if value.type.shape != shape:
        raise GraphError(f"{what} must be {shape_text(shape)}; %{value.name} is {value.type}")


@dataclass
class StepBuilder:
    """One step: `S` new tokens per row, right-padded, after `past_len` tokens whose keys and values are in the caches.

    `positions` is `i32[B,S]`, the position of each new token; `slots` is `i32[C]`, the position of each cache slot.
    """

    b: Builder
    weights: Weights
    shape: ModelShape
    token_ids: Value = field(init=False)
    past_len: Value = field(init=False)
    new_len: Value = field(init=False)
    logit_pos: Value = field(init=False)
    caches: dict[int, tuple[Value, Value]] = field(init=False)
    positions: Value = field(init=False)
    slots: Value = field(init=False)
    minus_infinity: Value = field(init=False)

    def __post_init__(self) -> None:
        b, shape = self.b, self.shape
        given = {name: b.input(name, type_.dtype, *type_.shape) for name, type_ in STEP_INPUTS.items()}
        self.token_ids, self.past_len = given[TOKEN_IDS], given[PAST_LEN]
        self.new_len, self.logit_pos = given[NEW_LEN], given[LOGIT_POS]
        cache, stored = LINEAR.dims(shape.kv_heads, shape.head_dim), self.weights.cache_dtype
        self.caches = {
            i: (b.input(cache_name(i, "k"), stored, *cache), b.input(cache_name(i, "v"), stored, *cache))
            for i in (range(shape.layers) if shape.cached is None else shape.cached)
        }
        with b.scope("positions"):
            past = b.reshape(self.past_len, shape=(B, 1), name="past")
            self.positions = b.add(past, b.iota(size=S, name="new"), name="ids")
            self.slots = b.iota(size=C, name="slots")
            self.minus_infinity = b.literal(dtype=self.dtype, shape=(1,), values=(-math.inf,), name="minus_infinity")

    @property
    def dtype(self) -> DType:
        """The element type in which the model computes."""
        return self.weights.dtype

    def queries(self) -> Value:
        """The positions as `i32[B,1,S,1]`, which broadcast against heads and slots."""
        return self.b.reshape(self.positions, shape=(B, 1, S, 1), name="queries")

    def causal_mask(self, window: int | None = None) -> Value:
        """`bool[B,1,S,C]`: whether a query sees a slot.

        It sees its own position and those before; with a window, no more than `window` positions back.

        Raises:
            GraphError: if the window is negative, so that a query would see nothing.
        """
        if window is not None and window < 0:
            raise GraphError(f"a query that sees {window} positions back does not see itself")
        b = self.b
        with b.scope("positions"):
            queries = self.queries()
            mask = b.less_equal(self.slots, queries, name="mask")
            if window is None:
                return mask
            width = b.literal(dtype=DType.i32, shape=(1,), values=(window,), name="window")
            first = b.sub(queries, width, name="first_visible")
            near = b.less_equal(first, self.slots, name="near")
            return b.logical_and(mask, near, name="mask.window")

    def alibi(self, slopes: Sequence[float]) -> Value:
        """`[B,heads,S,C]`: each head's slope times the distance from query to slot, to be added to the scores.

        Raises:
            GraphError: if there is not one slope for each head.
        """
        if len(slopes) != self.shape.heads:
            raise GraphError(f"ALiBi takes a slope for each of the {self.shape.heads} heads; {len(slopes)} were given")
        b = self.b
        with b.scope("positions"):
            distance = b.cast(b.sub(self.slots, self.queries(), name="distance"), dtype=DType.f32, name="distance.f32")
            slope = b.literal(dtype=DType.f32, shape=(len(slopes), 1, 1), values=tuple(slopes), name="slopes")
            exact = self.dtype is DType.f32
            bias = b.mul(slope, distance, name="alibi" if exact else "alibi.f32")
            return bias if exact else b.cast(bias, dtype=self.dtype, name="alibi")

    def angles(self, rope: Rope) -> tuple[Value, Value]:
        """Cosines and sines for `rotary`, `f32[B,S,R/2]`."""
        b = self.b
        with b.scope("positions"):
            ids = b.reshape(b.cast(self.positions, dtype=DType.f32, name="ids.f32"), shape=(B, S, 1), name="column")
            frequencies = b.literal(
                dtype=DType.f32, shape=(len(rope.frequencies),), values=rope.frequencies, name="frequencies"
            )
            angles = b.mul(ids, frequencies, name="angles")
            if rope.amplitude == 1.0:
                return b.cos(angles, name="cos"), b.sin(angles, name="sin")
            return (
                b.scale(b.cos(angles), factor=rope.amplitude, name="cos.scaled"),
                b.scale(b.sin(angles), factor=rope.amplitude, name="sin.scaled"),
            )

    def update_cache(self, layer: int, k: Value, v: Value) -> tuple[Value, Value]:
        """Store the new keys and values `[B,kv_heads,S,head_dim]`; the layer's caches after that.

        Raises:
            GraphError: if they have another shape, or the layer has no caches or has updated them already.
        """
        if layer not in self.caches or cache_name(layer, "k") in self.b.outputs:
            why = "were updated already" if layer in self.caches else "do not exist"
            raise GraphError(
                f"the caches of layer {layer} {why}", hint="each layer of ModelShape.cached updates its caches once"
            )
        for what, new in (("new keys", k), ("new values", v)):
            expect(what, new, *LINEAR.new_dims(self.shape.kv_heads, self.shape.head_dim))
        found = [
            self._update(cache, new, cache_name(layer, which), which)
            for cache, new, which in zip(self.caches[layer], (k, v), "kv", strict=True)
        ]
        return found[0], found[1]

    def _update(self, cache: Value, new: Value, role: str, which: str) -> Value:
        """The next state of one cache, in the model's type."""
        b, stored = self.b, self.weights.cache_dtype
        scale = None
        if stored is not self.dtype:
            scale = self.weights.cache_scale(b.origin.module, which, self.shape.kv_heads)
            new = b.quantize(new, scale, dtype=stored, name=f"{which}.packed")
        state = b.kv_update(cache, new, self.past_len, self.new_len, name=f"{which}.cache")
        b.output(role, state)
        return state if scale is None else b.dequantize(state, scale, dtype=self.dtype, name=f"{which}.cached")

    def logit_rows(self, x: Value) -> Value:
        """The rows of `x [B,S,H]` whose logits are wanted, `[B,R,H]`: what follows costs only those.

        Raises:
            GraphError: if `x` has another shape.
        """
        if x.type.rank != 3 or x.type.shape[:2] != (B, S):
            raise GraphError(f"what logits are computed from must be [B,S,width]; %{x.name} is {x.type}")
        return self.b.gather_rows(x, self.logit_pos, name="logit_rows")
