"""The int8 form of FasterTransformer directories: SmoothQuant's weights and scales, and scales of int8 caches.

FasterTransformer has one scale for each linear, and three for a fused projection: `scale` takes inputs to integers,
`scale_out` outputs from integers, `scale_inter` sums of products to output integers; that of the weight follows from
them. TensorRT-LLM's first converters stored `scale_x_orig_quant`, and the scale of each output of the weight,
`scale_w_quant_orig.col`; `smoother`, by which the inputs of some linears are divided; and `scale_y_quant_orig`, which
for the fused projection is the scale of caches.

Linears get the form of ModelOpt's W8A8 checkpoints. Scales of outputs are not needed: products are not rounded to int8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from compiler.frontends.composed import ComposedTensor, SourceTensor, joined, reshaped, sliced
from compiler.frontends.layouts.ft_config import FtModel
from compiler.frontends.layouts.ft_files import FtFiles
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.op import Value

Tensors = dict[str, SourceTensor]

_QKV = "attention.query_key_value"
_LINEARS = (_QKV, "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
_OF_COLUMNS = "scale_w_quant_orig.col"
_CACHE = "scale_y_quant_orig"
_KINDS = (".weight.int8", ".weight.int8.col", ".scale", ".scale_inter", ".scale_out")
_OTHER_KINDS = (
    *(".scale_x_orig_quant", ".scale_w_quant_orig", ".scale_w_quant_orig.col"),
    *(".scale_y_accum_quant", ".scale_y_accum_quant.col", ".scale_y_quant_orig"),
)


class Int8:
    """What of a directory is int8: nothing, caches, or linears with their inputs.

    Attributes:
        by_column: whether weights have a scale for each output, as TensorRT-LLM's converters wrote them.
        linears: whether linears are int8.
        caches: whether caches are.
        notes: what is there and not used.
    """

    def __init__(self, model: FtModel, files: FtFiles) -> None:
        first = f"layers.0.{_QKV}"
        asked = model.section.flag("int8", default=False) or "smoothquant" in model.section.values
        self.by_column = files.has(f"{first}.weight.int8.col")
        fits = model.family == ("mpt" if self.by_column else "opt") and model.kv_heads == model.heads
        stored = files.has(f"{first}.weight.int8")
        self.linears = asked and stored and fits
        self.caches = files.has(f"{first}.{_CACHE}") and not files.has(f"layers.0.attention.dense.{_CACHE}")
        self.notes: list[str] = []
        if asked and not self.linears:
            why = "a kind of model whose int8 form is not read" if stored else "but none is stored in int8"
            self.notes.append(f"config.ini says that linears are int8, {why}: the weights are used as stored")
        elif stored and not self.linears and not self.caches:
            self.notes.append("int8 weights and their scales are not used: config.ini does not say int8 = True")

    @property
    def options(self) -> dict[str, Any] | None:
        """The `quantization_config` of transformers; None for none."""
        if not (self.linears or self.caches):
            return None
        return {
            "quant_method": "modelopt",
            "quant_algo": "W8A8_SQ_PER_CHANNEL" if self.linears else None,
            "kv_cache_quant_algo": "INT8" if self.caches else None,
        }

    def parts(self, files: FtFiles, key: str, *shape: int) -> Sequence[SourceTensor]:
        """The parts of a linear's weight, of that shape each."""
        if not self.linears:
            return files.parts(f"{key}.weight", *shape)
        return files.parts(f"{key}.weight.int8{'.col' if self.by_column else ''}", *shape, dtype=DType.i8)

    def scales(self, m: FtModel, files: FtFiles, key: str, usual: Sequence[str], out: int) -> Tensors:
        """What ModelOpt stores beside the weights of a linear, or of the three that are fused into one.

        Args:
            m: the model.
            files: its files.
            key: what FasterTransformer calls the linear.
            usual: what transformers calls it, or the three.
            out: its outputs, of three those of each.
        """
        tensors: Tensors = {}
        if self.caches and key.endswith(_QKV):
            stored = files.scale(f"{key}.{_CACHE}", 1)
            module = usual[0].rpartition(".")[0]
            tensors |= {f"{module}.{which}_scale": stored for which in "kv"}
        if not self.linears:
            return tensors
        if self.by_column:
            return tensors | self._of_columns(m, files, key, usual[0], out)
        return tensors | _of_tensors(m, files, key, usual, out)

    def finish(self, files: FtFiles) -> None:
        """Say of what linears have in the other form that it tells nothing new."""
        floats = tuple(f".{linear}.weight" for linear in _LINEARS) if self.linears else ()
        names = (*_KINDS, *_OTHER_KINDS)
        files.drop(lambda key: key.startswith("layers.") and key.endswith((*floats, *_with(names))), unused_only=True)

    def _of_columns(self, m: FtModel, files: FtFiles, key: str, usual: str, out: int) -> Tensors:
        degree, name = files.degree, f"{usual}.weight_scale"
        if key.endswith(_QKV):
            parts = [files.scale(f"{key}.{_OF_COLUMNS}", 3, out // degree, rank=rank) for rank in range(degree)]
            scale = reshaped(name, joined(name, parts, 1), 3 * out)
        elif files.has(f"{key}.{_OF_COLUMNS}", rank=0):
            scale = joined(name, [files.scale(f"{key}.{_OF_COLUMNS}", out // degree, rank=r) for r in range(degree)], 0)
        else:
            scale = files.scale(f"{key}.{_OF_COLUMNS}", out)
        tensors: Tensors = {
            name: scale,
            f"{usual}.input_scale": _reciprocal(f"{usual}.input_scale", files.scale(f"{key}.scale_x_orig_quant", 1)),
        }
        if files.has(f"{key}.smoother", rank=0):
            width = (m.inner if key.endswith("4h_to_h") else m.hidden) // degree
            factors = joined(key, files.parts(f"{key}.smoother", width, dtype=DType.f32), 0)
            tensors[f"{usual}.pre_quant_scale"] = _reciprocal(f"{usual}.pre_quant_scale", factors)
        return tensors


def _of_tensors(m: FtModel, files: FtFiles, key: str, usual: Sequence[str], out: int) -> Tensors:
    """The weight's scale is `scale_inter * scale * scale_out`: the latter two are those of inputs and outputs."""
    tensors: Tensors = {}
    fused = len(usual) > 1
    columns = out // files.degree if fused else 1
    inter = reshaped(key, files.scale(f"{key}.scale_inter", len(usual), columns), len(usual), columns)
    quantizes, dequantizes = (files.scale(f"{key}.{kind}", len(usual)) for kind in ("scale", "scale_out"))
    for i, module in enumerate(usual):
        first = reshaped(key, sliced(key, sliced(key, inter, 0, i, 1), 1, 0, 1), 1)
        factors = (first, *(sliced(key, stored, 0, i, 1) for stored in (quantizes, dequantizes)))
        name = f"{module}.weight_scale"
        tensors[name] = _in_float32(name, factors, (out,), _product(out))
        name = f"{module}.input_scale"
        tensors[name] = _reciprocal(name, factors[1])
    return tensors


def _product(out: int) -> Callable[[Builder, Sequence[Value], str], Value]:
    def build(b: Builder, xs: Sequence[Value], name: str) -> Value:
        product = b.mul(b.mul(xs[0], xs[1]), xs[2])
        return b.broadcast(product, shape=(out,), name=name)

    return build


def _reciprocal(name: str, tensor: SourceTensor) -> SourceTensor:
    def build(b: Builder, xs: Sequence[Value], result: str) -> Value:
        one = b.literal(dtype=DType.f32, shape=(1,), values=(1.0,))
        return b.div(one, xs[0], name=result)

    return _in_float32(name, (tensor,), tensor.shape, build)


def _in_float32(
    name: str,
    parts: Sequence[SourceTensor],
    shape: tuple[int, ...],
    build: Callable[[Builder, Sequence[Value], str], Value],
) -> ComposedTensor:
    """A tensor that is made of its parts in float32."""

    def widened(b: Builder, xs: Sequence[Value], result: str) -> Value:
        return build(b, [x if x.type.dtype is DType.f32 else b.cast(x, dtype=DType.f32) for x in xs], result)

    return ComposedTensor(name, tuple(parts), shape, DType.f32, widened)


def _with(kinds: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{linear}{kind}" for linear in _LINEARS for kind in kinds)
