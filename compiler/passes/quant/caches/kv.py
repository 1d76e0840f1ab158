"""The pass `kv`: caches in 8 bits."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from compiler.errors import PassError
from compiler.ir.cache_layout import LINEAR, layer_of_cache
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import Replacement, RewriteBuilder, sweep
from compiler.passes.quant.algorithms.activations import LARGEST
from compiler.passes.quant.algorithms.scheme import LEAST_SCALE
from compiler.passes.quant.caches.errors import cache_errors
from compiler.passes.quant.caches.scales import cache_scales
from compiler.passes.quant.calibration.source import CalibrationSource, current_calibration
from compiler.passes.quant.recipe import require_one_rank
from compiler.passes.quant.report import ErrorSample, OpError
from compiler.passes.registry import register

PASS_NAME = "kv"
# A quick report of errors takes one of so many windows: the scales take all of them.
_QUICK = 16
_TYPES = {"int8": DType.i8, "fp8": DType.f8e4m3}


@register(PASS_NAME)
@dataclass(frozen=True)
class QuantizeCaches:
    """Keep the keys and values of past tokens in 8 bits.

    What enters a cache is quantized by scales from calibration, and attention reads it dequantized. Layers whose keys
    or values lose more than `fallback` on calibration data keep their caches as they are.
    """

    to: Annotated[Literal["int8", "fp8", "off"], "the type"]
    scale: Annotated[Literal["head", "tensor"], "a scale for each head of a cache, or one for all of it"] = "head"
    fallback: Annotated[float | None, "the largest relative error that a cache may have; none: any"] = None

    def __post_init__(self) -> None:
        if self.fallback is not None and self.fallback <= 0:
            raise PassError(f"fallback={self.fallback:g} is no error of a cache", hint="give one such as fallback=0.05")

    @property
    def dtype(self) -> DType:
        """The element type of the caches, if they are quantized."""
        return _TYPES[self.to]

    def __call__(self, graph: Graph) -> Graph:
        """The graph with quantized caches; their errors are added to the calibration's report."""
        if self.to == "off":
            return graph
        require_one_rank(graph, "kv")
        dtype, calibration = self.dtype, current_calibration()
        _require_plain(graph)
        largest = cache_scales(graph, calibration)
        if self.scale == "tensor":
            largest = {name: heads.amax(0, keepdim=True) for name, heads in largest.items()}
        scales = {name: scale_of(heads, dtype) for name, heads in largest.items()}
        errors = self._errors(graph, calibration, scales)
        kept = self._kept(graph, errors)
        if calibration.report.extent != "off":
            calibration.report.entries += self._entries(graph, errors, kept)
        return quantize_caches(graph, dtype, {name: scale for name, scale in scales.items() if name not in kept})

    def dry_run(self, graph: Graph) -> Graph:
        """The graph with quantized caches whose scales are 1."""
        if self.to == "off":
            return graph
        require_one_rank(graph, "kv")
        return quantize_caches(graph, self.dtype, {name: torch.ones(1) for name in graph.states()})

    def _errors(self, graph: Graph, calibration: CalibrationSource, scales: Mapping[str, Tensor]) -> dict[str, float]:
        """The error of each cache: on all windows where it decides or a report is to be full, else on few or none."""
        if self.fallback is None and calibration.report.extent == "off":
            return {}
        if self.fallback is None and calibration.report.extent == "quick":
            count, length = calibration.windows(graph).shape
            some = -(-count // _QUICK)
            if some < count:
                calibration.report.samples.append(ErrorSample(self._how, len(scales), len(scales), some, length))
            calibration = calibration.at_most(some, graph)
        return cache_errors(graph, calibration, scales, self.dtype)

    def _entries(self, graph: Graph, errors: Mapping[str, float], kept: Collection[str]) -> Iterator[OpError]:
        for name, error in errors.items():
            op = graph.producers[graph.outputs[name].name]
            how = "left in 16 bits" if name in kept else self._how
            yield OpError(op.name, op.origin.module or op.name, how, error)

    @property
    def _how(self) -> str:
        return f"kv {self.to}, scale by {self.scale}"

    def _kept(self, graph: Graph, errors: Mapping[str, float]) -> set[str]:
        """The caches that stay as they are: keys and values of a layer together."""
        if self.fallback is None:
            return set()
        bad = {layer_of_cache(name) for name, error in errors.items() if error > self.fallback}
        return {name for name in errors if layer_of_cache(name) in bad}


def scale_of(largest: Tensor, dtype: DType) -> Tensor:
    """The scales of caches whose heads hold values up to `largest`."""
    return (largest.float() / LARGEST[dtype]).clamp(min=LEAST_SCALE)


def quantize_caches(graph: Graph, dtype: DType, scales: Mapping[str, Tensor]) -> Graph:
    """The graph with some caches in 8 bits.

    Args:
        graph: a step graph; the next state of a cache is made by a `kv_update`.
        dtype: i8 or f8e4m3.
        scales: the scales of each head, float32 `[heads]`, or one for all `[1]`, by the cache's name; caches that are
            not named stay as they are.

    Raises:
        PassError: if a cache is quantized already, or made otherwise.
    """
    if not scales:
        return graph
    _require_plain(graph, scales)
    updates = {graph.outputs[name].name: name for name in scales}
    types = {name: graph.value(name).type for name in scales}
    stored: dict[str, Value] = {}

    def scale(name: str, b: RewriteBuilder) -> Value:
        values = tuple(scales[name].tolist())
        shape = LINEAR.shaped(1, len(values), 1, 1)
        return b.literal(dtype=DType.f32, shape=shape, values=values, name="scale")

    def visit(op: Op, b: RewriteBuilder) -> Replacement:
        """What is written into a quantized cache is quantized, and what is read from it dequantized."""
        name = updates.get(op.name)
        if name is None:
            return None
        cache, new, *rest = op.operands
        steps = scale(name, b)
        stored[name] = b.kv_update(cache, b.quantize(new, steps, dtype=dtype, name="new"), *rest, name="stored")
        return b.dequantize(stored[name], steps, dtype=types[name].dtype)

    inputs = {name: Value(name, type_.with_dtype(dtype)) for name, type_ in types.items()}
    swept = sweep(graph, visit, pass_name=PASS_NAME, retype=True, inputs=inputs)
    return swept.with_ops(swept.ops, {role: stored.get(role, value) for role, value in swept.outputs.items()})


def _require_plain(graph: Graph, names: Mapping[str, object] | None = None) -> None:
    """PassError unless caches hold floats and are made by `kv_update`."""
    for name, (cache, successor) in graph.states().items():
        op = graph.producers.get(successor.name)
        if names is not None and name not in names:
            continue
        if cache.type.dtype not in (DType.f32, DType.f16, DType.bf16):
            raise PassError(f"the cache %{name} is {cache.type} already", hint="use kv once")
        if op is None or op.kind.name != "kv_update":
            raise PassError(f"the cache %{name} is not written by a kv_update", hint="leave kv out")
