"""Scales of AMMO or ModelOpt, applied to a checkpoint's weights, inputs and caches."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from compiler.errors import CheckpointError, ConfigError
from compiler.frontends.checkpoint import Checkpoint, StoredWeights
from compiler.frontends.composed import ComposedTensor, SourceTensor, joined, reshaped
from compiler.frontends.layouts.scales_file import ATTENTION, QKV, Scales, read_scales
from compiler.frontends.layouts.tensorrt_llm.families import FAMILIES, Names
from compiler.frontends.quantized_form import quantized_form
from compiler.frontends.read_stored import read_stored
from compiler.ir.builder import Builder
from compiler.ir.dims import shape_text
from compiler.ir.dtypes import DType
from compiler.ir.op import Value

_MODULES = ("attention:dense", "mlp:fc", "mlp:proj")
# How far the largest weight that a scale stands for may be from that of the weights: calibration cuts some off.
_LEAST, _MOST = 0.25, 1.2


def apply_scales(file: Path, checkpoint: Checkpoint) -> None:
    """Let a checkpoint's weights be quantized by the scales in a file.

    Raises:
        CheckpointError: if the file cannot be read, or holds no scales.
        ConfigError: if the checkpoint is quantized already, or its family has none of these modules.
    """
    if checkpoint.config.get("quantization_config"):
        raise ConfigError(
            f"the checkpoint is quantized already: config.json has a 'quantization_config'; {file} holds scales, too",
            hint="leave --scales out, or give the unquantized checkpoint",
        )
    family = str(checkpoint.config.get("model_type"))
    if family not in FAMILIES:
        raise ConfigError(f"scales can be given for {', '.join(FAMILIES)}; the checkpoint is of the family {family!r}")
    scales = read_scales(file, checkpoint.folder, FAMILIES[family])
    checkpoint.config["quantization_config"] = quantized_form(scales.algorithm.inputs, scales.cache)
    usual = checkpoint.read_weights

    def read() -> StoredWeights:
        stored = usual()
        found = _Applied(scales, dict(stored.tensors), FAMILIES[family], checkpoint).all()
        return StoredWeights((*stored.files, scales.file), found)

    checkpoint.replace_weights(read)


class _Applied:
    """A checkpoint's tensors with scales applied to them."""

    def __init__(self, scales: Scales, tensors: dict[str, SourceTensor], names: Names, checkpoint: Checkpoint) -> None:
        self.scales = scales
        self.tensors = tensors
        self.names = names
        self.checkpoint = checkpoint

    def all(self) -> dict[str, SourceTensor]:
        """The tensors; CheckpointError if the scales do not fit them."""
        suffix = self.names.layer.split(".")[-3]  # the name of the list of layers, such as layers, h, blocks
        numbers = {int(m[1]) for name in self.tensors if (m := re.search(rf"(?:^|\.){suffix}\.(\d+)\.", name))}
        count = len(self.scales.layers)
        if len(numbers) != count:
            raise self._misfit(f"it has scales for {count} layers, and the checkpoint has {len(numbers)}")
        for i, layer in enumerate(self.scales.layers):
            prefix = f"{suffix}.{i}."
            self._attention(layer, prefix)
            for module in _MODULES:
                self._linear(
                    self._weight(f"{prefix}{self.names.modules[module.replace(':', '.')]}"),
                    self._kinds(layer, module, i),
                )
            if self.scales.cache is not None:
                self._caches(self._kinds(layer, ATTENTION, i), prefix, i)
        self._check_first()
        return self.tensors

    def _caches(self, kinds: Mapping[str, SourceTensor], prefix: str, number: int) -> None:
        """The scales of cached keys and values, together or each."""
        dense = self.names.modules["attention.dense"]
        base = self._weight(f"{prefix}{dense}").removesuffix(f"{dense}.weight")
        for which in "kv":
            own = f"{which}_cache_scaling_factor"
            scale = kinds.get(own) or kinds.get("kv_cache_scaling_factor")
            if scale is None:
                raise self._misfit(f"layer {number} has no {own!r}")
            self.tensors[f"{base}{self.names.attention}.{which}_scale"] = reshaped(scale.name, scale, 1)

    def _attention(self, layer: Mapping[str, Mapping[str, SourceTensor]], prefix: str) -> None:
        parts = [layer.get(f"{QKV}:{which}") for which in "qkv"]
        modules = [self._weight(prefix + module) for module in self.names.qkv]
        if QKV in layer:
            for weight in modules:
                self._linear(weight, layer[QKV])
        elif any(part is None for part in parts):
            raise self._misfit(f"it has no scales of {QKV!r} in the layer {prefix.rstrip('.')}")
        elif len(modules) == len(parts):
            for weight, part in zip(modules, parts, strict=True):
                self._linear(weight, part or {})
        else:
            self._linear(modules[0], self._fused([part or {} for part in parts], modules[0]))

    def _fused(self, parts: Sequence[Mapping[str, SourceTensor]], weight: str) -> dict[str, SourceTensor]:
        """What is said of queries, keys and values, for a module of all three."""
        found: dict[str, SourceTensor] = {}
        for kind in parts[0]:
            if any(kind not in part for part in parts):
                raise self._misfit(f"it has {kind!r} of some of queries, keys and values of {weight!r} only")
            tensors = [part[kind] for part in parts]
            if kind != "weights_scaling_factor" or tensors[0].elements == 1:
                found[kind] = _largest(tensors) if tensors[0].elements == 1 else tensors[0]
            else:
                found[kind] = self._rows_fused(tensors, weight)
        return found

    def _rows_fused(self, parts: list[SourceTensor], weight: str) -> SourceTensor:
        """A scale for each output, in the order of the outputs of a fused module."""
        columns = [reshaped(part.name, part, part.shape[0], part.elements // part.shape[0]) for part in parts]
        if self.names.layer.startswith("gpt_neox"):
            heads = int(self.checkpoint.config["num_attention_heads"])
            width, groups = columns[0].shape
            by_head = [reshaped(part.name, part, heads, 1, width // heads, groups) for part in columns]
            return reshaped(weight, joined(weight, by_head, 1), 3 * width, groups)
        return joined(weight, columns, 0)

    def _kinds(
        self, layer: Mapping[str, Mapping[str, SourceTensor]], module: str, number: int
    ) -> Mapping[str, SourceTensor]:
        if module not in layer:
            raise self._misfit(f"it has no scales of {module!r} in layer {number}")
        return layer[module]

    def _weight(self, module: str) -> str:
        """The name of a module's weight, whatever comes before."""
        ending = f"{module}.weight"
        found = [name for name in self.tensors if name == ending or name.endswith(f".{ending}")]
        if len(found) != 1:
            raise self._misfit(f"the checkpoint has no weight {ending!r}")
        return found[0]

    def _linear(self, weight: str, kinds: Mapping[str, SourceTensor]) -> None:
        """Quantize a weight, and say how its inputs are."""
        module, algorithm = weight.removesuffix(".weight"), self.scales.algorithm
        stored, scale = self.tensors[weight], kinds.get("weights_scaling_factor")
        if scale is None:
            raise self._misfit(f"it has no 'weights_scaling_factor' for {weight!r}")
        scale = self._shaped(scale, stored, weight)
        factors = kinds.get("prequant_scaling_factor")
        if factors is not None:
            if factors.elements != stored.shape[1]:
                raise self._misfit(
                    f"{factors.name!r} is {shape_text(factors.shape)}; {weight!r} has {stored.shape[1]} inputs"
                )
            self.tensors[f"{module}.pre_quant_scale"] = factors = reshaped(factors.name, factors, stored.shape[1])
        self.tensors[weight] = _quantized(stored, scale, factors, algorithm.dtype)
        self.tensors[f"{module}.weight_scale"] = scale
        if algorithm.inputs == "static":
            if "activation_scaling_factor" not in kinds:
                raise self._misfit(f"it has no 'activation_scaling_factor' for {weight!r}")
            self.tensors[f"{module}.input_scale"] = kinds["activation_scaling_factor"]

    def _shaped(self, scale: SourceTensor, stored: SourceTensor, weight: str) -> SourceTensor:
        """A scale as `[1, 1]`, `[N, 1]` or `[N, groups]`."""
        out, width = stored.shape
        if scale.elements == 1:
            return reshaped(scale.name, scale, 1, 1)
        rows = scale.shape[0] in (out, scale.elements)
        if not rows or scale.elements % out or width % (scale.elements // out):
            raise self._misfit(f"{scale.name!r} is {shape_text(scale.shape)}; {weight!r} is {shape_text(stored.shape)}")
        return reshaped(scale.name, scale, out, scale.elements // out)

    def _check_first(self) -> None:
        """CheckpointError if the scales of the first linear are not those of its weights."""
        weight = next(name for name, tensor in self.tensors.items() if _is_quantized(tensor))
        tensor = self.tensors[weight]
        assert isinstance(tensor, ComposedTensor)
        folder = self.checkpoint.folder
        if len(tensor.parts) > 2:
            return  # its inputs are scaled: which weights were quantized, the factors say, too
        largest = float(read_stored(tensor.parts[0], folder).abs().max())
        bound = float(read_stored(tensor.parts[1], folder).max()) * self.scales.algorithm.largest
        if not _LEAST * largest <= bound <= _MOST * largest:
            raise self._misfit(
                f"its scale of {weight!r} is for weights up to {bound:.4g}, and the largest is {largest:.4g}"
            )

    def _misfit(self, text: str) -> CheckpointError:
        return CheckpointError(
            f"the scales in {self.scales.file} do not fit the checkpoint: {text}",
            hint="give the scales that were exported of this model",
        )


def _is_quantized(tensor: SourceTensor) -> bool:
    return isinstance(tensor, ComposedTensor) and tensor.dtype in (DType.f8e4m3, DType.i8, DType.i4)


def _quantized(weight: SourceTensor, scale: SourceTensor, factors: SourceTensor | None, dtype: DType) -> ComposedTensor:
    """A weight, divided by the factors of its inputs if there are any, in integers or 8-bit floats."""

    def build(b: Builder, xs: Sequence[Value], name: str) -> Value:
        value = xs[0]
        if factors is not None:
            wide = [
                x if x.type.dtype is DType.f32 else b.cast(x, dtype=DType.f32, name=f"{name}.{i}.f32")
                for i, x in enumerate((xs[0], xs[2]))
            ]
            value = b.div(*wide, name=f"{name}.smoothed")
        return b.quantize(value, xs[1], dtype=dtype, name=name)

    parts = (weight, scale) if factors is None else (weight, scale, factors)
    return ComposedTensor(weight.name, parts, weight.shape, dtype, build)


def _largest(parts: Sequence[SourceTensor]) -> SourceTensor:
    """The largest of several single numbers."""
    flat = joined(parts[0].name, [reshaped(part.name, part, 1) for part in parts], 0)
    dtype = flat.dtype
    assert dtype is not None
    return ComposedTensor(parts[0].name, (flat,), (1,), dtype, lambda b, xs, n: b.amax(xs[0], axis=0, name=n))
