"""The weights of a rank in memory, where all of its plans read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from compiler.ir.evaluators.quant import dequantize
from compiler.ir.tensor_data import view_bytes
from compiler.store.weight_bytes import WeightBytes
from compiler.trt_network.arrangement import arrange, join
from compiler.trt_network.dtypes import DataType
from compiler.trt_network.record import Arranged, Joined, Made, Quantized, TensorRecord, Weight

# TensorRT wants addresses that are multiples of this.
_ALIGNED = 256
_CPU = torch.device("cpu")


def map_weights(file: Path, wanted: Iterable[Weight] = ()) -> WeightBytes:
    """The weights of `file`, mapped into memory, by their `source`.

    Args:
        file: the weights file.
        wanted: what is needed of it besides its tensors as they are: weights that are dequantized, arranged or joined.

    Raises:
        EngineError: naming the file, if it cannot be read, or lacks a part of a quantized weight.
    """
    mapped = WeightBytes.mapped(file)
    made = {weight.source: _made(mapped, weight.made, _CPU) for weight in wanted if weight.made}
    return WeightBytes(file, {**mapped.tensors, **made})


def load_weights(
    file: Path, wanted: Iterable[Weight], device: torch.device, check_memory: Callable[[int], None]
) -> WeightBytes:
    """Some weights of `file`, by their `source`, in one piece of a device's memory, each at a multiple of 256 bytes.

    Args:
        file: the weights file.
        wanted: what is needed of it; a tensor that it lacks is reported when its bytes are asked for.
        device: where to put them.
        check_memory: called with the bytes that will be taken; raises if the device has less.

    Raises:
        EngineError: naming the file, if it cannot be read, or lacks a part of a quantized weight.
    """
    mapped = WeightBytes.mapped(file)
    by_source = {weight.source: weight.made for weight in wanted}
    needed = {source: made for source, made in by_source.items() if made or source in mapped.tensors}
    sizes = [_size(made) if made else len(mapped.tensors[source]) for source, made in needed.items()]
    total = sum(map(_padded, sizes))
    check_memory(total)
    buffer = torch.empty(total, dtype=torch.uint8, device=device)
    tensors: dict[str, Tensor] = {}
    at = 0
    for (source, made), size in zip(needed.items(), sizes, strict=True):
        tensors[source] = buffer[at : at + size]
        tensors[source].copy_(_made(mapped, made, device) if made else mapped.tensors[source])
        at += _padded(size)
    return WeightBytes(file, tensors)


def _size(made: Made) -> int:
    if isinstance(made, Quantized):
        return TensorRecord(made.codes.name, made.dtype, made.codes.shape).nbytes
    return made.nbytes


def _made(mapped: WeightBytes, made: Made, device: torch.device) -> Tensor:
    """The bytes of a weight that is dequantized, or of parts of some that are arranged."""

    def stored(tensor: TensorRecord) -> Tensor:
        return view_bytes(mapped.view(tensor.name, tensor.nbytes).to(device), tensor.type)

    if isinstance(made, Arranged):
        return arrange(stored(made.stored), made).view(-1).view(torch.uint8)
    if isinstance(made, Joined):
        return join(made, stored).view(-1).view(torch.uint8)
    zero = stored(made.zero) if made.zero else None
    wide = dequantize(stored(made.codes), stored(made.scale).float(), zero)
    return wide.to(DataType[made.dtype].torch_dtype).contiguous().view(-1).view(torch.uint8)


def _padded(nbytes: int) -> int:
    return -(-nbytes // _ALIGNED) * _ALIGNED
