"""CalibrationResults of calibration in files, found again by what they were made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from compiler.atomic_file import replacing
from compiler.cache import cache_folder
from compiler.errors import PassError
from compiler.ir.dtypes import DType
from compiler.ir.frozen import EMPTY
from compiler.ir.graph import Graph
from compiler.ir.op import Op
from compiler.ir.printer import print_graph
from compiler.ir.tensor_data import read_const
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.torch_types import from_torch
from compiler.ir.types import TensorType, parse_type
from compiler.store.safetensors_header import read_header
from compiler.store.safetensors_writer import SafetensorsWriter

# Part of every key: results of an older way of computing them are not found again.
_VERSION = "3"


@dataclass(frozen=True)
class Stored:
    """A tensor to store.

    Attributes:
        tensor: its values; i4 as int8.
        name: what messages call it.
        dtype: its element type in the graph; the tensor's own if None.
    """

    tensor: Tensor
    name: str
    dtype: DType | None = None

    @property
    def type(self) -> TensorType:
        """Its type in the graph."""
        return TensorType(self.dtype or from_torch(self.tensor.dtype), tuple(self.tensor.shape))


class ResultStore:
    """The tensors of one calibration, a file for each layer, and a note that is written when all are there."""

    def __init__(self, graph: Graph, windows: Tensor | None, settings: str) -> None:
        """The store of the results for a graph on some windows.

        Args:
            graph: the graph that is calibrated.
            windows: the token ids.
            settings: everything else that results depend on.
        """
        self.folder = cache_folder() / "quant" / _key(graph, windows, settings)
        self._count = 0

    @property
    def note(self) -> dict[str, object] | None:
        """What was noted when the results were complete; None if they are not, or if a file of them is damaged."""
        try:
            found: dict[str, object] = json.loads((self.folder / "note.json").read_text(encoding="utf-8"))
            self.refs()
        except (OSError, ValueError):
            return None
        return found

    def write(self, tensors: Mapping[str, Stored]) -> None:
        """Write the tensors of the next layer.

        Raises:
            PassError: if the folder cannot be written.
        """

        def write(path: Path) -> None:
            # Sorted: engines keep their weights in the order in which what they are made of lies in its files.
            types = {key: tensors[key].type for key in sorted(tensors)}
            # The file's own types do not tell of i4.
            described = {key: json.dumps([str(type_), tensors[key].name]) for key, type_ in types.items()}
            with SafetensorsWriter(path, types, described) as writer:
                for key in types:
                    writer.write(key, tensors[key].tensor.detach().cpu().contiguous())

        self._place(f"{self._count:05d}.safetensors", write)
        self._count += 1

    def finish(self, note: Mapping[str, object]) -> None:
        """Say that all results are there."""
        text = json.dumps(note)
        self._place("note.json", lambda path: path.write_text(text, encoding="utf-8"))

    def refs(self) -> dict[str, TensorRef]:
        """Where each tensor is, by its key.

        Raises:
            OSError: if a file cannot be read.
            ValueError: if one is damaged.
        """
        return dict(entry for path in sorted(self.folder.glob("*.safetensors")) for entry in _entries(path))

    def _place(self, name: str, write: Callable[[Path], object]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.folder / name) as temporary:
                write(temporary)
        except OSError as error:
            raise PassError(
                f"cannot write the results of calibration to {self.folder}: {error.strerror or error}",
                hint="free some disk space, or set XDG_CACHE_HOME to another folder",
            ) from None


def _entries(path: Path) -> Iterable[tuple[str, TensorRef]]:
    """The tensors of a file, by key."""
    header = read_header(path)
    for key, tensor in header.tensors.items():
        type_, name = json.loads(header.metadata.get(key, ""))
        yield key, TensorRef(parse_type(type_), name, tensor.file, tensor.offset)


def _key(graph: Graph, windows: Tensor | None, settings: str) -> str:
    """A digest of the graph's ops, the values of its constants, the windows and the settings.

    Where files lie does not matter, nor how many sequences run at once.
    """
    digest = hashlib.sha256(f"{_VERSION}\n{settings}\n".encode())
    if windows is not None:
        digest.update(repr(tuple(windows.shape)).encode() + windows.numpy().tobytes())
    plain = replace(graph, root=".", dims=EMPTY, facts=EMPTY)
    digest.update(print_graph(plain).encode())
    sources: dict[TensorRef, Op] = {}
    for op in graph.find("const"):
        sources.setdefault(op.attrs["data"], op)
    for op in sources.values():
        digest.update(read_const(op, graph.root, flat=True).numpy().data)
    return digest.hexdigest()[:32]
