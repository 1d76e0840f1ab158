"""Reading the tensors that constants point at."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch

from compiler.errors import CheckpointError
from compiler.ir.dtypes import DType
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.torch_types import to_torch
from compiler.ir.types import TensorType


def read_tensor(ref: TensorRef, root: str | Path) -> torch.Tensor:
    """The tensor as stored, in memory of its own.

    Raises:
        CheckpointError: if the file is missing or ends before the tensor does.
    """
    path = Path(root) / ref.file
    nbytes = ref.type.nbytes
    data = np.empty(nbytes, dtype=np.uint8)
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(ref.offset)
            view, got = memoryview(data.data), 0
            while got < nbytes and (count := file.readinto(view[got:])):
                got += count
    except OSError as error:
        raise CheckpointError(
            f"cannot read tensor {ref.name!r} from {path}: {error.strerror or error}",
            hint="the weights were moved or deleted since the graph was made; restore the file or lift again",
        ) from error
    if got < nbytes:
        raise CheckpointError(
            f"{path} ends inside tensor {ref.name!r}: {nbytes} bytes at offset {ref.offset}, only {got} there",
            hint="the file is truncated; copy or download it again",
        )
    return view_bytes(torch.from_numpy(data), ref.type)


def view_bytes(data: torch.Tensor, type_: TensorType) -> torch.Tensor:
    """A flat `uint8` tensor seen as a tensor of `type_`; i4 is unpacked into int8."""
    if type_.elements == 0:
        return torch.empty(type_.sizes({}), dtype=to_torch(type_.dtype))
    if type_.dtype is DType.i4:
        return unpack_int4(data, type_.elements).view(type_.sizes({}))
    if data.storage_offset() * 8 % type_.dtype.bits:
        data = data.clone()  # torch views aligned memory only
    return data.view(to_torch(type_.dtype)).view(type_.sizes({}))


def pack_int4(values: torch.Tensor) -> torch.Tensor:
    """Integers from -8 to 7 two to a byte, row-major, the first one in the low half: a flat `uint8` tensor."""
    flat = values.reshape(-1).view(torch.uint8) & 15
    if flat.numel() % 2:
        flat = torch.cat([flat, flat.new_zeros(1)])
    return flat[::2] | flat[1::2] << 4


def unpack_int4(data: torch.Tensor, count: int) -> torch.Tensor:
    """Inverse of `pack_int4`: the first `count` integers of packed bytes, as a flat `int8` tensor."""
    # Shifts of signed bytes copy the sign.
    halves = torch.stack([data << 4, data], -1).view(torch.int8) >> 4
    return halves.reshape(-1)[:count]


# Long enough that rows of a weight differ, short enough to stay in a cache while a large weight is filled.
_PERIOD = 65_537


def random_tensor(key: str, dtype: DType, shape: tuple[int, ...], mean: float, std: float) -> torch.Tensor:
    """The value of a `random` op: uniform noise of that mean and standard deviation, repeated with period 65,537."""
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    half_width = std * 3**0.5
    period = torch.rand(_PERIOD, generator=generator) * (2 * half_width) + (mean - half_width)
    period = period.to(to_torch(dtype))
    result = torch.empty(shape, dtype=to_torch(dtype))
    flat = result.view(-1)
    whole = flat.numel() // _PERIOD * _PERIOD
    flat[:whole].view(-1, _PERIOD).copy_(period)
    flat[whole:].copy_(period[: flat.numel() - whole])
    return result
