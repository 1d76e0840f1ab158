"""Quantized checkpoints of other tools, told apart by their config; one small file per tool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compiler.errors import CheckpointError, ConfigError
from compiler.frontends.checkpoint import Checkpoint
from compiler.frontends.json_file import read_object
from compiler.frontends.leftovers import is_leftover
from compiler.frontends.quantized.awq import AwqImporter
from compiler.frontends.quantized.compressed_tensors import CompressedTensors
from compiler.frontends.quantized.gptq import GptqImporter
from compiler.frontends.quantized.modelopt import ModelOpt
from compiler.frontends.quantized.of_layouts import OfLayouts
from compiler.frontends.quantized.packed import Options, PackedLinear, PackedScheme
from compiler.frontends.quantized_form import OF_LAYOUTS
from compiler.frontends.read_stored import read_stored
from compiler.frontends.source_options import WeightsFormat
from compiler.ir.dtypes import DType

__all__ = ["PackedLinear", "PackedScheme", "quantized_scheme"]

_METHODS: dict[str, Callable[[Options], PackedScheme]] = {
    "awq": AwqImporter,
    "compressed-tensors": CompressedTensors,
    "gptq": GptqImporter,
    "modelopt": ModelOpt,
}
# What layouts name whose tensors are brought into one form; no tool writes it.
_OF_LAYOUTS: dict[str, Callable[[Options], PackedScheme]] = {OF_LAYOUTS: OfLayouts}
# Tensors that some tools store among the weights.
_STORED = {"gptq_bits": "bits", "gptq_groupsize": "group_size"}
# What users call the options of a format → what configs call them.
_SPELLINGS = {
    "gptq": {"group": "group_size", "act_order": "desc_act", "zeros": "checkpoint_format"},
    "awq": {"group": "group_size"},
}
# Files that some tools write beside config.json, or wrote before they wrote into it.
_FILES = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}


def quantized_scheme(checkpoint: Checkpoint) -> PackedScheme | None:
    """How the checkpoint is quantized; None if it is not.

    Raises:
        ConfigError: if it was quantized by a tool, or in a way, that is not supported, naming it.
    """
    found = _options(checkpoint)
    if found is None:
        _check_not_packed(checkpoint)
        return None
    method, options = found
    scheme = _METHODS.get(method) or _OF_LAYOUTS.get(method)
    if scheme is not None:
        return scheme(options)
    if not checkpoint.dummy_weights and not _holds_integers(checkpoint):
        checkpoint.notes.append(
            f"{options.file} says that weights are quantized by {method or 'an unnamed method'}, "
            "but none that is stored is: they are used as stored"
        )
        return None
    raise ConfigError(
        f"the checkpoint is quantized by {method or 'an unnamed method'}, which is not supported; "
        f"supported: {', '.join(_METHODS)}",
        hint="compile the unquantized checkpoint, and let llmc quantize it",
    )


def _check_not_packed(checkpoint: Checkpoint) -> None:
    """CheckpointError if integers are stored as GPTQ and AWQ do, but nothing says how."""
    packed = [] if checkpoint.dummy_weights else [name for name in checkpoint.tensors if name.endswith(".qweight")]
    if packed:
        stored = checkpoint.tensors[packed[0]]
        raise CheckpointError(
            f"the tensor {stored.name!r} in {stored.file} is quantized, and no config says how",
            hint="say it: --weights-format gptq:bits=4:group=128 if GPTQ wrote it, --weights-format awq if AWQ did",
        )


def _holds_integers(checkpoint: Checkpoint) -> bool:
    """Whether anything is stored in less than 16 bits, or as integers, but for buffers that no model needs."""
    return any(
        tensor.dtype not in (DType.f64, DType.f32, DType.f16, DType.bf16)
        for name, tensor in checkpoint.tensors.items()
        if not is_leftover(name) and tensor.dtype is not DType.bool
    )


def _options(checkpoint: Checkpoint) -> tuple[str, Options] | None:
    said = checkpoint.source.weights_format
    if said is not None and said.name in _METHODS:
        return said.name, Options("--weights-format", _said(checkpoint, said))
    for key in ("quantization_config", "compression_config"):
        section: Any = checkpoint.config.get(key)
        if section is None:
            continue
        if not isinstance(section, dict):
            raise ConfigError(f"the config key {key!r} is {section!r}; it must be an object")
        if section:
            usual = "compressed-tensors" if key == "compression_config" else ""
            return str(section.get("quant_method", usual)), Options(f"config.json, {key},", section)
    for file, method in _FILES.items():
        path = checkpoint.folder / file
        if path.is_file():
            content = read_object(path)
            return str(content.get("quant_method", method)), Options(file, content)
    return _stored_options(checkpoint)


def _said(checkpoint: Checkpoint, said: WeightsFormat) -> dict[str, Any]:
    """The options that a user gives, as configs spell them; what is stored tells the width of GPTQ's integers."""
    values = {_SPELLINGS[said.name].get(key, key): value for key, value in said.options.items()}
    if said.name == "gptq" and "bits" not in values and not checkpoint.dummy_weights:
        values["bits"] = _stored_bits(checkpoint)
    return values


def _stored_bits(checkpoint: Checkpoint) -> int:
    """The width of GPTQ's integers: a row of zero points has one for each scale."""
    for name, zeros in checkpoint.tensors.items():
        scales = checkpoint.tensors.get(f"{name.removesuffix('.qzeros')}.scales")
        if name.endswith(".qzeros") and scales is not None and len(zeros.shape) == len(scales.shape) == 2:
            return 32 * zeros.shape[1] // max(scales.shape[1], 1)
    raise CheckpointError(
        "--weights-format says that the weights are GPTQ's, but none that is stored has 'qzeros' and 'scales'",
        hint="leave --weights-format out, or give the file that GPTQ wrote: --weights FILE",
    )


def _stored_options(checkpoint: Checkpoint) -> tuple[str, Options] | None:
    """The options that some GPTQ tools store as tensors among the weights; None if there are none."""
    found: dict[str, int] = {}
    for name, tensor in checkpoint.tensors.items():
        key = _STORED.get(name.rpartition(".")[2])
        if key and tensor.elements == 1 and tensor.dtype is not None:
            found[key] = int(read_stored(tensor, checkpoint.folder).item())
    return ("gptq", Options("the tensor 'gptq_bits'", found)) if "bits" in found else None
