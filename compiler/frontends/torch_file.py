"""Finding the tensors in a file of `torch.save`, without torch and without running its pickle.

Two formats: since torch 1.6 a zip archive with one stored record a storage; before that, five pickles in a row
followed by the storages' bytes. In both, tensors refer to storages by key, and several may share one.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.errors import CheckpointError
from compiler.frontends.file_kinds import AGAIN, PICKLE, ZIP, read_start, refuse_others
from compiler.frontends.pickle_data import (
    ForbiddenGlobalError,
    Global,
    Persistent,
    PickleCall,
    PickleError,
    read_pickle,
)
from compiler.ir.dtypes import DType
from compiler.store.stored_tensor import StoredTensor

# Name of the storage class → bytes an element, and the IR's element type if there is one.
_STORAGES: dict[str, tuple[int, DType | None]] = {
    "torch.DoubleStorage": (8, DType.f64),
    "torch.FloatStorage": (4, DType.f32),
    "torch.HalfStorage": (2, DType.f16),
    "torch.BFloat16Storage": (2, DType.bf16),
    "torch.LongStorage": (8, DType.i64),
    "torch.IntStorage": (4, DType.i32),
    "torch.ShortStorage": (2, None),
    "torch.CharStorage": (1, DType.i8),
    "torch.ByteStorage": (1, DType.u8),
    "torch.BoolStorage": (1, DType.bool),
}
_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_PARAMETER = "torch._utils._rebuild_parameter"
_ALLOWED = frozenset({*_STORAGES, *_TENSORS, _PARAMETER, "collections.OrderedDict"})
# What files of training runs name besides: arrays, options, states of optimizers. They become records like all else.
_TRAINING_NAMES = (
    *(
        "_codecs.encode",
        "argparse.Namespace",
        "__builtin__.set",
        "builtins.set",
        "collections.defaultdict",
        "collections.deque",
    ),
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "numpy.dtype", "numpy.ndarray"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "torch.Size", "torch.device"),
    *("torch.bfloat16", "torch.float16", "torch.float32", "torch.float64", "torch.int32", "torch.int64"),
)
_TRAINING_PACKAGES = ("composer.", "datetime.", "deepspeed.", "llmfoundry.", "megatron.", "omegaconf.", "torchmetrics.")
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_CONVERT = "convert the checkpoint to safetensors where you trust it: model.save_pretrained(FOLDER)"
# What zipfile and the arithmetic on a damaged file's numbers raise.
_DAMAGE = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    NotImplementedError,
)


@dataclass(frozen=True, slots=True)
class _Storage:
    offset: int
    nbytes: int


def read_torch_file(path: Path, file: str) -> dict[str, StoredTensor]:
    """The tensors of the `torch.save` file at `path`; `file` is what to call it. No data is read, no code runs.

    Raises:
        CheckpointError: if the file is damaged, holds anything but a dict of tensors, or names code to run.
    """
    return _read(
        path,
        file,
        _ALLOWED,
        lambda state, storages: {str(name): _tensor(str(name), file, value, storages) for name, value in state.items()},
    )


def read_training_file(path: Path, file: str) -> dict[str, Any]:
    """What a `torch.save` file of a training run holds, sections within sections; see `read_torch_file`.

    Returns:
        Its dict, in which dicts are dicts and tensors are `StoredTensor`s, named by the keys that lead to them, joined
        by dots. Everything else is inert data.

    Raises:
        CheckpointError: like `read_torch_file`, but the file may hold and name more.
    """
    return _read(path, file, _Training(), lambda state, storages: _section("", file, state, storages))


class _Training:
    """The names that files of training runs may hold."""

    def __contains__(self, name: object) -> bool:
        return name in _ALLOWED or name in _TRAINING_NAMES or str(name).startswith(_TRAINING_PACKAGES)


def _section(prefix: str, file: str, state: dict[Any, Any], storages: dict[str, _Storage]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in state.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            found[str(key)] = _section(f"{name}.", file, value, storages)
        elif isinstance(value, PickleCall) and value.function.name in (*_TENSORS, _PARAMETER):
            try:
                found[str(key)] = _tensor(name, file, value, storages)
            except PickleError:  # a view with gaps, such as states of optimizers may be, is left as it is
                found[str(key)] = value
        else:
            found[str(key)] = value
    return found


_Found = Callable[[dict[Any, Any], dict[str, _Storage]], dict[str, Any]]


def _read(path: Path, file: str, allowed: Container[str], found: _Found) -> dict[str, Any]:
    try:
        start = read_start(path, file)
        refuse_others(start, file, "a file of torch.save", ZIP, PICKLE)
        state, storages = _read_zip(path, allowed) if start.startswith(b"PK\3\4") else _read_legacy(path, allowed)
        if not isinstance(state, dict):
            raise PickleError("it holds no state dict")
        return found(state, storages)
    except ForbiddenGlobalError as error:
        raise CheckpointError(
            f"{file} carries code: its pickle names {str(error)!r}, which tensors do not need; nothing was executed",
            hint=f"do not load this file elsewhere unless you trust its source; {_CONVERT}",
        ) from None
    except (PickleError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read as a torch checkpoint: {error}", hint=_CONVERT) from None
    except _DAMAGE as error:
        size = path.stat().st_size
        raise CheckpointError(f"{file} is truncated or damaged ({error}; it has {size:,} bytes)", hint=AGAIN) from None


def _read_zip(path: Path, allowed: Container[str]) -> tuple[Any, dict[str, _Storage]]:
    with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
        records = {name.partition("/")[2]: archive.getinfo(name) for name in archive.namelist()}
        if "data.pkl" not in records:
            raise PickleError("the archive has no data.pkl")
        if "byteorder" in records and archive.read(records["byteorder"]) != b"little":
            raise PickleError("it was written by a big-endian machine")
        with archive.open(records["data.pkl"]) as stream:
            state = read_pickle(stream, allowed)
        storages = {}
        for name, record in records.items():
            if not name.startswith("data/"):
                continue
            if record.compress_type != zipfile.ZIP_STORED:
                raise PickleError("its records are compressed")
            # The bytes follow a local header whose name and padding have lengths of their own.
            raw.seek(record.header_offset + 26)
            header = raw.read(4)
            gap = int.from_bytes(header[:2], "little") + int.from_bytes(header[2:], "little")
            storages[name.removeprefix("data/")] = _Storage(record.header_offset + 30 + gap, record.file_size)
        return state, storages


def _read_legacy(path: Path, allowed: Container[str]) -> tuple[Any, dict[str, _Storage]]:
    with path.open("rb") as stream:
        if read_pickle(stream, ()) != _LEGACY_MAGIC:
            raise PickleError("it is neither a zip archive nor a file of torch 0.4 to 1.5")
        read_pickle(stream, ())  # the format's version
        if not read_pickle(stream, ()).get("little_endian", True):
            raise PickleError("it was written by a big-endian machine")
        state = read_pickle(stream, allowed)
        keys = read_pickle(stream, ())
        widths = dict(_storage_widths(state))
        storages, size = {}, path.stat().st_size
        for key in keys:
            elements = int.from_bytes(stream.read(8), "little")
            if key not in widths:
                raise PickleError(f"its storage {key!r} belongs to no tensor")
            storages[key] = _Storage(stream.tell(), elements * widths[key])
            end = stream.tell() + elements * widths[key]
            if end > size:
                raise PickleError(f"it is truncated: it should have at least {end:,} bytes but has {size:,}")
            stream.seek(end)
        return state, storages


def _storage_widths(value: Any) -> list[tuple[str, int]]:
    """Key and bytes an element of every storage that `value` refers to."""
    match value:
        case dict():
            return [pair for item in value.values() for pair in _storage_widths(item)]
        case list() | tuple():
            return [pair for item in value for pair in _storage_widths(item)]
        case PickleCall(args=args):
            return [pair for item in args for pair in _storage_widths(item)]
        case Persistent(id=("storage", Global(name=kind), str(key), *_)) if kind in _STORAGES:
            return [(key, _STORAGES[kind][0])]
    return []


def _tensor(name: str, file: str, value: Any, storages: dict[str, _Storage]) -> StoredTensor:
    match value:
        case PickleCall(Global(name="torch._utils._rebuild_parameter"), (inner, *_)):
            return _tensor(name, file, inner, storages)
        case PickleCall(
            Global(name=function),
            (Persistent(id=("storage", Global(name=kind), str(key), *more)), start, shape, strides, *_),
        ) if function in _TENSORS and kind in _STORAGES and key in storages:
            if len(more) == 3 and more[2] is not None:
                raise PickleError(f"{name!r} is a view of another storage, as torch 0.4 wrote it")
            width, dtype = _STORAGES[kind]
            spelling = kind.removeprefix("torch.").removesuffix("Storage").lower()
            layout, perm = _dense(name, shape, strides)
            if start < 0 or (start + math.prod(shape)) * width > storages[key].nbytes:
                raise PickleError(f"{name!r} of shape {list(shape)} lies outside its storage")
            offset, nbytes = storages[key].offset + start * width, math.prod(shape) * width
            return StoredTensor(name, file, offset, nbytes, spelling, dtype, layout, perm)
    raise PickleError(f"its entry {name!r} is no tensor")


def _dense(
    name: str, shape: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """The layout in memory of a dense tensor, and how to transpose it into the tensor (None if they agree).

    Dims of size 1 fit anywhere, whatever their stride.
    """
    if 0 in shape:
        return shape, None
    order = sorted((i for i, size in enumerate(shape) if size > 1), key=lambda i: -strides[i])
    expected = 1
    for i in reversed(order):
        if strides[i] != expected:
            raise PickleError(
                f"{name!r} of shape {list(shape)} is stored with gaps or overlaps (strides {list(strides)})"
            )
        expected *= shape[i]
    if order == sorted(order):
        return shape, None
    order += [i for i, size in enumerate(shape) if size == 1]
    return tuple(shape[i] for i in order), tuple(order.index(i) for i in range(len(shape)))
