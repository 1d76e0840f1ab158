"""The formats of checkpoints that a model can be exported to, one small file each."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.exporters.formats.awq import Awq
from compiler.exporters.formats.compressed_tensors import CompressedTensors
from compiler.exporters.formats.format import Format
from compiler.exporters.formats.gptq import Gptq
from compiler.exporters.formats.plain import Plain

__all__ = ["FORMATS", "Format"]

FORMATS: Mapping[str, Format] = {format_.name: format_ for format_ in (Plain(), CompressedTensors(), Gptq(), Awq())}
"""The formats by what the command line calls them."""
