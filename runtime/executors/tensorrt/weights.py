"""The weights of a rank in memory, where all of its plans read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from compiler.errors import EngineError
from compiler.ir.evaluators.quant import dequantize
from compiler.ir.safetensors_header import Entry
from compiler.os_errors import reading_hint
from compiler.trt_emulator.memory import byte_count, convert, from_bytes
from compiler.trt_network.record import Part, Weight
from compiler.trt_network.weight_file import read_spans

# TensorRT wants addresses that are multiples of this.
_ALIGNED = 256
_CPU = torch.device("cpu")


class Weights:
    """The bytes of the tensors of a weights file. They stay where they are as long as this object lives."""

    def __init__(self, file: Path, tensors: Mapping[str, Tensor]) -> None:
        """Hold `tensors`, each flat bytes, by the weights' `source`."""
        self._file, self._tensors = file, tensors

    def address(self, weight: Weight, nbytes: int) -> int:
        """Where `nbytes` bytes of a weight lie.

        Raises:
            EngineError: naming the file and the tensor, if it is absent or has too few bytes.
        """
        return self.view(weight, nbytes).data_ptr()

    def view(self, weight: Weight, nbytes: int) -> Tensor:
        """The bytes of a weight, not copied; raises as `address` does."""
        tensor = self._tensors.get(weight.source)
        if tensor is None:
            raise EngineError(f"{self._file} has no tensor {weight.tensor!r}", hint="compile the engine again")
        if not 0 <= weight.offset <= len(tensor) - nbytes:
            raise EngineError(
                f"{self._file}: the tensor {weight.tensor!r} has {len(tensor):,} bytes, but the engine reads "
                f"{nbytes:,} from byte {weight.offset:,} on",
                hint="compile the engine again",
            )
        return tensor[weight.offset : weight.offset + nbytes]

    def __contains__(self, source: str) -> bool:
        """Whether there is memory for a weight's `source`."""
        return source in self._tensors

    def whole(self, source: str) -> Tensor:
        """All bytes of a weight's `source`."""
        return self._tensors[source]


def map_weights(file: Path, wanted: Iterable[Weight] = ()) -> Weights:
    """The weights of `file`, mapped into memory; those that are not aligned to their elements are copied.

    Args:
        file: the weights file.
        wanted: what is needed of it besides its tensors as they are: weights that must be dequantized.

    Raises:
        EngineError: naming the file, if it cannot be read, or lacks a part of a quantized weight.
    """
    data, spans = _map(file), read_spans(file)
    tensors = {name: _aligned_view(data, span) for name, span in spans.items()}
    plain = Weights(file, tensors)
    made = {source: _dequantized(plain, weight, _CPU) for source, weight in _by_source(wanted) if weight.quantized}
    return Weights(file, tensors | made)


def load_weights(
    file: Path, wanted: Iterable[Weight], device: torch.device, check_room: Callable[[int], None]
) -> Weights:
    """Some weights of `file`, in one piece of a device's memory, each at a multiple of 256 bytes.

    Args:
        file: the weights file.
        wanted: what is needed of it; a tensor that it lacks is reported when its address is asked for.
        device: where to put them.
        check_room: called with the bytes that will be taken; raises if the device has less.

    Raises:
        EngineError: naming the file, if it cannot be read, or lacks a part of a quantized weight.
    """
    mapped = map_weights(file)
    needed = [(source, weight) for source, weight in _by_source(wanted) if weight.quantized or source in mapped]
    sizes = [_size(mapped, weight) for _, weight in needed]
    total = sum(map(_padded, sizes))
    check_room(total)
    buffer = torch.empty(total, dtype=torch.uint8, device=device)
    tensors: dict[str, Tensor] = {}
    at = 0
    for (source, weight), size in zip(needed, sizes, strict=True):
        tensors[source] = buffer[at : at + size]
        tensors[source].copy_(_dequantized(mapped, weight, device) if weight.quantized else mapped.whole(source))
        at += _padded(size)
    return Weights(file, tensors)


def _by_source(weights: Iterable[Weight]) -> Iterable[tuple[str, Weight]]:
    return {weight.source: weight for weight in weights}.items()


def _size(mapped: Weights, weight: Weight) -> int:
    if weight.quantized is None:
        return len(mapped.whole(weight.source))
    return byte_count(weight.quantized.dtype, weight.quantized.codes.shape)


def _dequantized(mapped: Weights, weight: Weight, device: torch.device) -> Tensor:
    """The bytes of a weight that is dequantized."""
    quantized = weight.quantized
    assert quantized is not None

    def part(given: Part) -> Tensor:
        data = mapped.view(Weight(given.tensor), byte_count(given.dtype, given.shape))
        return from_bytes(data.to(device), given.dtype, given.shape)

    zero = part(quantized.zero) if quantized.zero else None
    wide = dequantize(part(quantized.codes), part(quantized.scale).float(), zero)
    return convert(wide, quantized.dtype).contiguous().view(-1).view(torch.uint8)


def _map(file: Path) -> Tensor:
    try:
        return torch.from_file(str(file), shared=False, size=file.stat().st_size, dtype=torch.uint8)
    except (OSError, RuntimeError) as error:
        raise EngineError(
            f"cannot read {file}: {error}", hint=reading_hint(error, "compile the engine again")
        ) from None


def _aligned_view(data: Tensor, span: Entry) -> Tensor:
    view = data[span.start : span.start + span.nbytes]
    return view.clone() if span.start % max(span.itemsize, 1) else view


def _padded(nbytes: int) -> int:
    return -(-nbytes // _ALIGNED) * _ALIGNED
