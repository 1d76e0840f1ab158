"""Quantized checkpoints of other tools, told apart by their config; one small file a tool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compiler.errors import ConfigError
from compiler.frontends.checkpoint import Checkpoint, read_object
from compiler.frontends.quantized.awq import Awq
from compiler.frontends.quantized.compressed_tensors import CompressedTensors
from compiler.frontends.quantized.gptq import Gptq
from compiler.frontends.quantized.modelopt import ModelOpt
from compiler.frontends.quantized.packed import Options, Packed, Scheme

__all__ = ["Packed", "Scheme", "quantized_scheme"]

_METHODS: dict[str, Callable[[Options], Scheme]] = {
    "awq": Awq,
    "compressed-tensors": CompressedTensors,
    "gptq": Gptq,
    "modelopt": ModelOpt,
}
# Files that some tools write beside config.json, or wrote before they wrote into it.
_FILES = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}


def quantized_scheme(checkpoint: Checkpoint) -> Scheme | None:
    """How the checkpoint is quantized; None if it is not.

    Raises:
        ConfigError: if it was quantized by a tool, or in a way, that is not supported, naming it.
    """
    found = _options(checkpoint)
    if found is None:
        return None
    method, options = found
    if method not in _METHODS:
        raise ConfigError(
            f"the checkpoint is quantized by {method or 'an unnamed method'}, which is not supported; "
            f"supported: {', '.join(_METHODS)}",
            hint="compile the unquantized checkpoint, and let llmc quantize it",
        )
    return _METHODS[method](options)


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
    return None
