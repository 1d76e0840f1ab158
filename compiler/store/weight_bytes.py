"""The bytes of an engine's weights, by the names of the tensors of its weights file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from compiler.errors import EngineError
from compiler.os_errors import reading_hint
from compiler.store.mapped_file import AGAIN, MappedFile
from compiler.store.safetensors_header import read_header


class WeightBytes:
    """Tensors as flat bytes. They stay where they are as long as this object lives.

    Attributes:
        file: the weights file that they are from, for messages.
        tensors: the bytes of each tensor, a flat `uint8` tensor, by its name.
    """

    def __init__(self, file: Path, tensors: Mapping[str, Tensor]) -> None:
        """Hold the bytes of tensors, wherever they lie."""
        self.file, self.tensors = file, tensors

    @classmethod
    def mapped(cls, file: Path) -> WeightBytes:
        """All tensors of a safetensors file, mapped into memory; those that are not aligned are copied.

        Raises:
            EngineError: naming the file, if it cannot be read, is truncated, or is no safetensors file.
        """
        try:
            stored = read_header(file).tensors
        except OSError as error:
            raise EngineError(f"cannot read {file}: {error.strerror}", hint=reading_hint(error, AGAIN)) from None
        except ValueError as error:
            raise EngineError(f"{file} {error}", hint=AGAIN) from None
        data = MappedFile(file).data
        views = {name: data[tensor.offset :][: tensor.nbytes] for name, tensor in stored.items()}
        return cls(file, {name: view if stored[name].is_aligned else view.clone() for name, view in views.items()})

    def view(self, name: str, nbytes: int, offset: int = 0) -> Tensor:
        """Some bytes of a tensor, not copied, from an offset into it on.

        Raises:
            EngineError: naming the file and the tensor, if it is absent or has too few bytes.
        """
        tensor = self.tensors.get(name)
        if tensor is None:
            raise EngineError(f"{self.file} has no tensor {name!r}", hint="compile the engine again")
        if not 0 <= offset <= len(tensor) - nbytes:
            raise EngineError(
                f"{self.file}: the tensor {name!r} has {len(tensor):,} bytes, but the engine reads {nbytes:,} from "
                f"byte {offset:,} on",
                hint="compile the engine again",
            )
        return tensor[offset : offset + nbytes]
