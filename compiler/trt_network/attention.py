"""The plug-in layer of attention for one new token of each sequence, as data.

It does what these ops of the IR do: `rotary` of queries and keys, `quantize` of keys and values, `kv_update` of both
caches, `dequantize`, and causal `attention`, with the bias of ALiBi or in a window if the model has them.

Its inputs are the tensors whose columns are queries, keys and values, `[B, 1, ...]`; the caches `[B, kv_heads, C, D]`;
`past i32[B]`, the position of each token; the angles `cos` and `sin`, `f32[B, 1, R/2]`, if the first R values of a head
turn; the slopes of ALiBi, `f32[heads, 1, 1]`; and the scales of 8-bit caches, `f32[kv_heads]` each. A token whose
position is not below the capacity is padding: its context is 0, and nothing is written for it.

It makes the context `[B, 1, heads * D]`, and the caches, written to in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compiler.trt_network.plugin_spec import PluginSpec, Result

ATTENTION = "llmc::attention"
"""The namespace and the name of the plug-in, by which network records call its layers."""


@dataclass(frozen=True)
class AttentionSpec(PluginSpec):
    """What a layer of attention computes.

    Attributes:
        heads: how many query heads there are.
        kv_heads: how many key heads, each of which `heads / kv_heads` query heads share.
        width: D, how many values a head has.
        scale: the factor on the scores.
        reads: of queries, keys and values the number of the tensor that they are columns of, and the first column.
        window: how many positions back a token sees; -1 for all.
        turned: R, how many values of a head turn; 0 if none do.
        interleaved: whether the values `(2 i, 2 i + 1)` of a head are a pair, and not `(i, i + R/2)`.
        alibi: whether there are slopes.
        cache: the element type of 8-bit caches, by TensorRT's name; None where it is that of the queries.
    """

    plugin: ClassVar[str] = ATTENTION
    version: ClassVar[str] = "1"

    heads: int
    kv_heads: int
    width: int
    scale: float
    reads: tuple[tuple[int, int], ...]
    window: int = -1
    turned: int = 0
    interleaved: bool = False
    alibi: bool = False
    cache: str | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `PluginSpec.inputs`."""
        turning = ("cos", "sin") if self.turned else ()
        slopes = ("slopes",) if self.alibi else ()
        scales = ("k_scale", "v_scale") if self.cache else ()
        return (*self._tensors, "k_cache", "v_cache", "past", *turning, *slopes, *scales)

    @property
    def _tensors(self) -> tuple[str, ...]:
        return tuple(f"x{number}" for number in range(1 + max(number for number, _ in self.reads)))

    @property
    def results(self) -> tuple[Result, ...]:
        """See `PluginSpec.results`."""
        first = len(self._tensors)
        caches = (Result(first, in_place=True), Result(first + 1, in_place=True))
        return (Result(0, self.heads * self.width), *caches)

    def types(self, first: str) -> tuple[str, ...]:
        """See `PluginSpec.types`."""
        cache = self.cache or first
        own = {"k_cache": cache, "v_cache": cache, "past": "INT32"} | dict.fromkeys(self._tensors, first)
        return (*(own.get(name, "FLOAT") for name in self.inputs), first, cache, cache)
