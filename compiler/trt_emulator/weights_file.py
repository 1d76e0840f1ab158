"""The tensors of a safetensors file as bytes: mapped, never copied."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from compiler.errors import EngineError
from compiler.trt_network.weight_file import read_spans

_AGAIN = "compile the engine again"


class WeightsFile:
    """A rank's weights."""

    def __init__(self, path: Path) -> None:
        """Map a file and read its header; EngineError if it cannot be read, or has no header that can."""
        self.path = path
        self._spans = read_spans(path)
        self._data = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)

    def view(self, tensor: str, offset: int, nbytes: int) -> Tensor:
        """Bytes of a tensor, from an offset into it on.

        Raises:
            EngineError: if the file lacks the tensor, or the tensor ends before.
        """
        span = self._spans.get(tensor)
        if span is None:
            raise EngineError(f"{self.path} has no tensor {tensor!r}", hint=_AGAIN)
        if not 0 <= offset <= span.nbytes - nbytes:
            raise EngineError(
                f"tensor {tensor!r} of {self.path} has {span.nbytes} bytes; {nbytes} from byte {offset} on are needed",
                hint=_AGAIN,
            )
        return self._data[span.start + offset :][:nbytes]
