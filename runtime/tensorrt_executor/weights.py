"""The weights of a rank in memory, where all of its plans read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from compiler.errors import EngineError
from compiler.ir.safetensors_header import Entry
from compiler.trt.record import Weight
from compiler.trt.weight_file import read_spans

# TensorRT wants addresses that are multiples of this.
_ALIGNED = 256


class Weights:
    """The bytes of the tensors of a weights file. They stay where they are as long as this object lives."""

    def __init__(self, file: Path, tensors: Mapping[str, Tensor]) -> None:
        """Hold `tensors`, each flat bytes, under the names that they have in `file`."""
        self._file, self._tensors = file, tensors

    def address(self, weight: Weight, nbytes: int) -> int:
        """Where `nbytes` bytes of a weight lie.

        Raises:
            EngineError: naming the file and the tensor, if it is absent or has too few bytes.
        """
        return self.view(weight, nbytes).data_ptr()

    def view(self, weight: Weight, nbytes: int) -> Tensor:
        """The bytes of a weight, not copied; raises as `address` does."""
        tensor = self._tensors.get(weight.tensor)
        if tensor is None:
            raise EngineError(f"{self._file} has no tensor {weight.tensor!r}", hint="compile the engine again")
        if not 0 <= weight.offset <= len(tensor) - nbytes:
            raise EngineError(
                f"{self._file}: the tensor {weight.tensor!r} has {len(tensor):,} bytes, but the engine reads "
                f"{nbytes:,} from byte {weight.offset:,} on",
                hint="compile the engine again",
            )
        return tensor[weight.offset : weight.offset + nbytes]


def map_weights(file: Path) -> Weights:
    """The weights of `file`, mapped into memory; a tensor that is not aligned to its elements is copied.

    Raises:
        EngineError: naming the file, if it cannot be read.
    """
    data, spans = _map(file), read_spans(file)
    return Weights(file, {name: _aligned_view(data, span) for name, span in spans.items()})


def load_weights(file: Path, names: Iterable[str], device: torch.device, check_room: Callable[[int], None]) -> Weights:
    """The tensors of `file` with those names, in one piece of a device's memory, each at a multiple of 256 bytes.

    Args:
        file: the weights file.
        names: what is needed of it; what it lacks is reported when its address is asked for.
        device: where to put them.
        check_room: called with the bytes that will be taken; raises if the device has less.

    Raises:
        EngineError: naming the file, if it cannot be read.
    """
    data, spans = _map(file), read_spans(file)
    wanted = set(names)
    spans = {name: span for name, span in spans.items() if name in wanted}
    total = sum(_padded(span.nbytes) for span in spans.values())
    check_room(total)
    buffer = torch.empty(total, dtype=torch.uint8, device=device)
    tensors: dict[str, Tensor] = {}
    at = 0
    for name, span in spans.items():
        tensors[name] = buffer[at : at + span.nbytes]
        tensors[name].copy_(data[span.start : span.start + span.nbytes])
        at += _padded(span.nbytes)
    return Weights(file, tensors)


def _map(file: Path) -> Tensor:
    try:
        return torch.from_file(str(file), shared=False, size=file.stat().st_size, dtype=torch.uint8)
    except (OSError, RuntimeError) as error:
        raise EngineError(f"cannot read {file}: {error}", hint="compile the engine again") from None


def _aligned_view(data: Tensor, span: Entry) -> Tensor:
    view = data[span.start : span.start + span.nbytes]
    return view.clone() if span.start % max(span.itemsize, 1) else view


def _padded(nbytes: int) -> int:
    return -(-nbytes // _ALIGNED) * _ALIGNED
