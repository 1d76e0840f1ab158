"""The files of a FasterTransformer directory: raw numbers, one tensor or one rank's part of it a file.

`model.KEY.bin` is whole; `model.KEY.RANK.bin` is the part of a tensor-parallel rank. Shapes follow from `config.ini`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

from compiler.errors import CheckpointError
from compiler.ir.dims import shape_text
from compiler.ir.dtypes import DType
from compiler.store.stored_tensor import StoredTensor

CONFIG = "config.ini"
_FILE = re.compile(r"model\.(.+?)(?:\.(\d+))?\.bin")
_PARTS = re.compile(r"\d+-gpu")
_SPELLINGS = {DType.f32: "float32", DType.f16: "float16", DType.bf16: "bfloat16", DType.i8: "int8"}
_HINT = "copy the missing files, or correct config.ini; parts of different conversions do not go together"


def holds_ft(path: Path) -> bool:
    """Whether a path looks like a FasterTransformer directory, or one that holds such."""
    return path.is_dir() and not (path / "config.json").is_file() and bool(_folders(path))


def ft_folder(path: Path) -> Path:
    """The folder of the files: the path, or the only `N-gpu` in it; CheckpointError if there are several."""
    found = _folders(path)
    if len(found) > 1:
        raise CheckpointError(
            f"{path} holds several models: {', '.join(folder.name for folder in found)}",
            hint=f"give one of them, such as {found[0]}",
        )
    return found[0]


def _folders(path: Path) -> list[Path]:
    inner = sorted(folder for folder in path.iterdir() if _PARTS.fullmatch(folder.name) and folder.is_dir())
    return [f for f in (path, *inner) if (f / CONFIG).is_file() and any(f.glob("model.*.bin"))]


class FtFiles:
    """The files of a model, each of which must be used, or be known to tell nothing new.

    Attributes:
        folder: what file names are relative to.
        degree: in how many parts tensors are stored.
    """

    def __init__(self, folder: Path, place: Path, dtype: DType) -> None:
        """Look for the files.

        Args:
            folder: the checkpoint's folder.
            place: the folder of the files, in it or the same.
            dtype: the element type of weights.

        Raises:
            CheckpointError: if parts are missing.
        """
        self.folder = folder
        self._dtype = dtype
        self._found: dict[str, dict[int | None, str]] = {}
        self._used: set[str] = set()
        for path in sorted(place.glob("model.*.bin")):
            match = _FILE.fullmatch(path.name)
            if match and path.is_file():
                rank = None if match[2] is None else int(match[2])
                self._found.setdefault(match[1], {})[rank] = path.relative_to(folder).as_posix()
        self.degree = 1 + max((rank for ranks in self._found.values() for rank in ranks if rank is not None), default=0)

    @property
    def used(self) -> tuple[str, ...]:
        """The files that were used, in order."""
        return tuple(sorted(self._used))

    def has(self, key: str, rank: int | None = None) -> bool:
        """Whether there is a tensor of that name, whole or in parts; with a rank, whether it has that part."""
        return key in self._found and (rank is None or rank in self._found[key])

    def drop(self, wanted: Callable[[str], bool], *, unused_only: bool = False) -> list[str]:
        """Say of tensors, or of those that were not used, that they tell nothing new; returns their names."""
        dropped = [key for key in self._found if wanted(key) and not (unused_only and self._is_used(key))]
        for key in dropped:
            del self._found[key]
        return dropped

    def whole(self, key: str, *shape: int, dtype: DType | None = None) -> StoredTensor:
        """A tensor that is stored in one file; CheckpointError if it is missing or of another size."""
        return self._tensor(key, None, shape, dtype or self._dtype)

    def parts(self, key: str, *shape: int, dtype: DType | None = None) -> list[StoredTensor]:
        """The parts of all ranks, each of that shape; CheckpointError if one is missing or of another size."""
        return [self._tensor(key, rank, shape, dtype or self._dtype) for rank in range(self.degree)]

    def scale(self, key: str, *shape: int, rank: int | None = None) -> StoredTensor:
        """Factors of a quantized tensor, which some tools write in float32 and some in the type of the weights."""
        wide = self._bytes(key, rank) == 4 * math.prod(shape)
        return self._tensor(key, rank, shape, DType.f32 if wide else self._dtype)

    def keys(self, ending: str) -> list[str]:
        """The names of the tensors that end so."""
        return [key for key in self._found if key.endswith(ending)]

    def start(self, key: str, size: int) -> bytes:
        """How the file of a tensor begins."""
        with (self.folder / self._file(key, None)).open("rb") as stream:
            return stream.read(size)

    def all_zero(self, key: str) -> bool:
        """Whether every stored number is zero. It is read, so ask of small ones."""
        return all(not any((self.folder / file).read_bytes()) for file in self._found[key].values())

    def finish(self) -> None:
        """CheckpointError, naming it, if a file was not used."""
        for key, ranks in self._found.items():
            for file in ranks.values():
                if file not in self._used:
                    raise CheckpointError(
                        f"the file {file} has no place in the model that {CONFIG} describes",
                        hint=f"the tensor {key!r} belongs to another model, or to a variant that is not supported",
                    )

    def _is_used(self, key: str) -> bool:
        return not self._used.isdisjoint(self._found[key].values())

    def _file(self, key: str, rank: int | None) -> str:
        ranks = self._found.get(key, {})
        if rank not in ranks:
            name = f"model.{key}.bin" if rank is None else f"model.{key}.{rank}.bin"
            stored = f": the model is stored in {self.degree} parts" if rank is not None and self.degree > 1 else ""
            raise CheckpointError(f"{name} is missing from {self.folder}{stored}", hint=_HINT)
        return ranks[rank]

    def _bytes(self, key: str, rank: int | None) -> int:
        return (self.folder / self._file(key, rank)).stat().st_size

    def _tensor(self, key: str, rank: int | None, shape: tuple[int, ...], dtype: DType) -> StoredTensor:
        file, there = self._file(key, rank), self._bytes(key, rank)
        needed = math.prod(shape) * dtype.bits // 8
        if there != needed:
            times = needed // there if there and needed % there == 0 and rank is not None else 1
            parts = f": it is a part of {times * self.degree}, and {self.degree} are there" if times > 1 else ""
            raise CheckpointError(
                f"{file} has {there:,} bytes; {shape_text(shape)} of {_SPELLINGS[dtype]}, which {CONFIG} calls for, "
                f"takes {needed:,}{parts}",
                hint=_HINT,
            )
        self._used.add(file)
        return StoredTensor(key, file, 0, needed, _SPELLINGS[dtype], dtype, shape)
