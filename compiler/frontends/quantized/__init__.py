"""Quantized checkpoints of other tools, told apart by their config; one small file per tool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compiler.errors import ConfigError
from compiler.frontends.checkpoint import Checkpoint
from compiler.frontends.json_file import read_object
from compiler.frontends.leftovers import is_leftover
from compiler.frontends.quantized.awq import AwqImporter
from compiler.frontends.quantized.compressed_tensors import CompressedTensors
from compiler.frontends.quantized.gptq import GptqImporter
from compiler.frontends.quantized.modelopt import ModelOpt
from compiler.frontends.quantized.packed import Options, PackedLinear, PackedScheme
from compiler.frontends.quantized.tensorrt_llm import TensorRtLlm
from compiler.frontends.read_stored import read_stored
from compiler.ir.dtypes import DType

__all__ = ["PackedLinear", "PackedScheme", "quantized_scheme"]

_METHODS: dict[str, Callable[[Options], PackedScheme]] = {
    "awq": AwqImporter,
    "compressed-tensors": CompressedTensors,
    "gptq": GptqImporter,
    "modelopt": ModelOpt,
    "tensorrt-llm": TensorRtLlm,
}
# Tensors that some tools store among the weights.
_STORED = {"gptq_bits": "bits", "gptq_groupsize": "group_size"}
# Files that some tools write beside config.json, or wrote before they wrote into it.
_FILES = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}


def quantized_scheme(checkpoint: Checkpoint) -> PackedScheme | None:
    """How the checkpoint is quantized; None if it is not.

    Raises:
        ConfigError: if it was quantized by a tool, or in a way, that is not supported, naming it.
    """
    found = _options(checkpoint)
    if found is None:
        return None
    method, options = found
    if method in _METHODS:
        return _METHODS[method](options)
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


def _holds_integers(checkpoint: Checkpoint) -> bool:
    """Whether anything is stored in less than 16 bits, or as integers, but for buffers that no model needs."""
    return any(
        tensor.dtype not in (DType.f64, DType.f32, DType.f16, DType.bf16)
        for name, tensor in checkpoint.tensors.items()
        if not is_leftover(name) and tensor.dtype is not DType.bool
    )


def _options(checkpoint: Checkpoint) -> tuple[str, Options] | None:
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


def _stored_options(checkpoint: Checkpoint) -> tuple[str, Options] | None:
    """The options that some GPTQ tools store as tensors among the weights; None if there are none."""
    found: dict[str, int] = {}
    for name, tensor in checkpoint.tensors.items():
        key = _STORED.get(name.rpartition(".")[2])
        if key and tensor.elements == 1 and tensor.dtype is not None:
            found[key] = int(read_stored(tensor, checkpoint.folder).item())
    return ("gptq", Options("the tensor 'gptq_bits'", found)) if "bits" in found else None
