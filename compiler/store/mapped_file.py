"""Files of engines, mapped into memory: a page is read when it is touched, and nothing is copied."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from compiler.errors import EngineError
from compiler.ir.tensor_data import shortage, view_bytes
from compiler.ir.tensor_ref import TensorRef
from compiler.os_errors import reading_hint

AGAIN = "copy the engine again from where it came, or compile it again"


class MappedFile:
    """A file, mapped for as long as this object or a view of it lives. Writing to a view changes no file.

    Attributes:
        path: the file.
        data: all of its bytes, a flat `uint8` tensor.
    """

    def __init__(self, path: Path) -> None:
        """Map a file.

        Raises:
            EngineError: naming the file, if it cannot be read, or is empty.
        """
        self.path = path
        try:
            with path.open("rb"):  # torch says why it cannot open a file in words of its own
                size = path.stat().st_size
                self.data = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
        except (OSError, RuntimeError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            raise EngineError(f"cannot read {path}: {reason}", hint=reading_hint(error, AGAIN)) from None
        if size == 0:
            raise EngineError(f"cannot read {path}: it is empty", hint=AGAIN)

    def view(self, ref: TensorRef) -> Tensor:
        """A tensor of the file, in place where it is aligned.

        Raises:
            EngineError: naming the tensor, if the file ends before it does.
        """
        end = ref.offset + ref.type.nbytes
        if end > len(self.data):
            raise EngineError(shortage(self.path, ref, max(len(self.data) - ref.offset, 0)), hint=AGAIN)
        return view_bytes(self.data[ref.offset : end], ref.type)
