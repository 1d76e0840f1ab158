"""Scales that AMMO or ModelOpt exported, from the headers of their file.

They are arrays of an .npz file, whose names are paths: `_np:layers:0:attention:qkv:q:weights_scaling_factor`, or
without the `q`, where the model has one module for all three. A JSON file beside it says how they quantize. Or they
are the quantizers in a state of the model, `transformer.h.0.mlp.fc_in.weight_quantizer._amax`: largest absolute
values, from which scales follow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compiler.errors import CheckpointError, ConfigError
from compiler.frontends.composed import ComposedTensor, SourceTensor
from compiler.frontends.json_file import read_object
from compiler.frontends.layouts.file_names import named_from
from compiler.frontends.layouts.tensorrt_llm.families import Names
from compiler.frontends.npz_file import read_npz
from compiler.frontends.safetensors_file import read_safetensors
from compiler.frontends.torch_file import read_torch_file
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.op import Value

_QUANTIZER = re.compile(
    r"(?:.*\.)?(?:layers|h|blocks)\.(\d+)\.(.+)\.(weight_quantizer|input_quantizer|[kv]_bmm_quantizer)\._(amax|pre_quant_scale)"
)
_QUANTIZERS = {
    ("weight_quantizer", "amax"): "weights_scaling_factor",
    ("input_quantizer", "amax"): "activation_scaling_factor",
    ("input_quantizer", "pre_quant_scale"): "prequant_scaling_factor",
    ("k_bmm_quantizer", "amax"): "k_cache_scaling_factor",
    ("v_bmm_quantizer", "amax"): "v_cache_scaling_factor",
}
_ENTRY = re.compile(r"(?:_np:)?layers:(\d+):(.+):([a-z_0-9]+)")
KINDS = ("weights_scaling_factor", "activation_scaling_factor", "prequant_scaling_factor")
ATTENTION = "attention"
CACHES = ("kv_cache_scaling_factor", "k_cache_scaling_factor", "v_cache_scaling_factor")
_READERS = {
    ".npz": read_npz,
    ".safetensors": read_safetensors,
    ".pt": read_torch_file,
    ".pth": read_torch_file,
    ".bin": read_torch_file,
}
Layer = dict[str, dict[str, SourceTensor]]
QKV = "attention:qkv"


@dataclass(frozen=True)
class _Algorithm:
    """The type of weights, the largest value of that type, how inputs are rounded, and the type of caches."""

    dtype: DType
    largest: int
    inputs: str | None
    cache: str


_ALGORITHMS: Mapping[str, _Algorithm] = {
    "fp8": _Algorithm(DType.f8e4m3, 448, "static", "fp8"),
    "int8_sq": _Algorithm(DType.i8, 127, "static", "int8"),
    "int8_wo": _Algorithm(DType.i8, 127, None, "int8"),
    "int4_awq": _Algorithm(DType.i4, 7, None, "int8"),
}


@dataclass
class Scales:
    """The arrays of a file, by layer and module.

    Attributes:
        file: what to call it.
        algorithm: how they quantize.
        layers: for each layer the arrays of each module, by their last name.
    """

    file: str
    algorithm: _Algorithm
    layers: list[Layer] = field(default_factory=list)

    @property
    def cache(self) -> str | None:
        """The type of caches, if their scales are there."""
        there = self.layers and any(kind in CACHES for kind in self.layers[0].get(ATTENTION, {}))
        return self.algorithm.cache if there else None


def read_scales(path: Path, folder: Path, names: Names) -> Scales:
    """The scales of a file, an .npz or the JSON beside it, or a state of the model."""
    arrays, said = _files(path)
    file = named_from(folder, arrays)
    found: dict[int, Layer] = {}
    amax: list[tuple[int, str, str]] = []
    for name, tensor in _READERS[arrays.suffix](arrays, file).items():
        entry, quantizer = _ENTRY.fullmatch(name), _QUANTIZER.fullmatch(name)
        if entry and (entry[3] in KINDS or (entry[2] == ATTENTION and entry[3] in CACHES)):
            place = int(entry[1]), entry[2], entry[3]
        elif quantizer and (kind := _QUANTIZERS.get((quantizer[3], quantizer[4]))):
            place = int(quantizer[1]), _called(quantizer[2], names), kind
            amax += [place] if quantizer[4] == "amax" else []
        elif entry and entry[3].endswith("_scaling_factor_2"):
            raise ConfigError(
                f"{file} has scales of scales ({name!r}), which are not supported",
                hint=f"supported are the quantizations {', '.join(_ALGORITHMS)}",
            )
        else:
            continue
        found.setdefault(place[0], {}).setdefault(place[1], {})[place[2]] = tensor
    if not found or sorted(found) != list(range(len(found))):
        raise CheckpointError(
            f"{file} holds no scales of layers, such as '_np:layers:0:attention:dense:weights_scaling_factor'",
            hint="give the file that AMMO or ModelOpt exported",
        )
    layers = [found[i] for i in range(len(found))]
    stated = read_object(said).get("quantization") if said is not None else None
    name = str(stated) if stated else _told(layers)
    if name not in _ALGORITHMS:
        raise ConfigError(
            f"{said} says the quantization {name!r}, which is not supported; supported: {', '.join(_ALGORITHMS)}"
        )
    algorithm = _ALGORITHMS[name]
    for layer, module, kind in amax:
        largest = 127 if kind in CACHES and algorithm.cache == "int8" else algorithm.largest
        layers[layer][module][kind] = _divided(layers[layer][module][kind], largest)
    return Scales(file, algorithm, layers)


def _called(module: str, names: Names) -> str:
    """What AMMO calls a module of a layer that a state of the model names."""
    usual = {name: ours.replace(".", ":") for ours, name in names.modules.items()}
    qkv = [QKV] if len(names.qkv) == 1 else [f"{QKV}:{which}" for which in "qkv"]
    usual |= dict(zip(names.qkv, qkv, strict=True)) | {names.attention: ATTENTION}
    return usual.get(module, module)


def _divided(tensor: SourceTensor, number: int) -> SourceTensor:
    """A tensor divided by a number, in float32."""

    def build(b: Builder, xs: Sequence[Value], name: str) -> Value:
        wide = xs[0] if tensor.dtype is DType.f32 else b.cast(xs[0], dtype=DType.f32, name=f"{name}.amax")
        divisor = b.literal(dtype=DType.f32, shape=(1,) * len(tensor.shape), values=(float(number),), name=f"{name}.by")
        return b.div(wide, divisor, name=name)

    return ComposedTensor(tensor.name, (tensor,), tensor.shape, DType.f32, build)


def _files(path: Path) -> tuple[Path, Path | None]:
    """The file of arrays, and the JSON file beside it, if it is there."""
    if path.suffix == ".json":
        arrays = path.with_name(f"{path.stem}_rank0.npz")
        if not arrays.is_file():
            raise CheckpointError(
                f"{arrays.name} is missing beside {path}", hint="give the .npz file: --scales FILE.npz"
            )
        return arrays, path
    if path.suffix not in _READERS:
        raise CheckpointError(
            f"{path} is no file of scales: its name ends in none of .json, {', '.join(_READERS)}",
            hint="give the file that AMMO or ModelOpt exported",
        )
    said = path.with_name(re.sub(r"_rank\d+$", "", path.stem) + ".json")
    return path, said if path.suffix == ".npz" and said.is_file() else None


def _told(layers: Sequence[Mapping[str, Mapping[str, SourceTensor]]]) -> str:
    """The quantization that the shapes of the scales tell."""
    module = next(iter(kinds for kinds in layers[0].values() if "weights_scaling_factor" in kinds), {})
    scale = module.get("weights_scaling_factor")
    if scale is None or scale.elements == 1:
        return "fp8"
    if (len(scale.shape) > 1 and scale.shape[-1] > 1) or "prequant_scaling_factor" in module:
        return "int4_awq"
    return "int8_sq" if "activation_scaling_factor" in module else "int8_wo"
