"""The target: an ONNX model for each rank, over the weights that every engine stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from compiler.errors import EngineError, TargetError
from compiler.ir.graph import Graph
from compiler.progress import Report
from compiler.sizes import bytes_text
from compiler.targets import Target
from llmc_onnx.kind import OnnxKind as OnnxKind  # registers the executor

if TYPE_CHECKING:
    from compiler.store import StoredRank


@dataclass(frozen=True)
class Onnx(Target):
    """ONNX models (opset 21) with caches, for onnxruntime on a CPU; weights of 4 bits as `MatMulNBits`."""

    title = "ONNX"

    inputs: Annotated[
        Literal["exact", "int8"],
        "what quantized weights multiply: as the graph says, or rounded to 8 bits, which is faster and less exact",
    ] = "exact"

    def require_tools(self) -> None:
        """TargetError if the package `onnx` is missing."""
        if find_spec("onnx") is None:
            raise TargetError("the Python package onnx is not installed", hint="pip install onnx onnxruntime")

    def check(self, rank: Graph) -> Sequence[str]:
        """See `Target.check`: the model is made, but for the values of its weights."""
        self._outline(rank)
        return ()

    def estimate_bytes(self, rank: Graph) -> int:
        """See `Target.estimate_bytes`: the model, and the weights that it has in a form of its own."""
        model, data = self._outline(rank)
        return int(model.ByteSize()) + int(data.size)

    def emit(self, rank: StoredRank, folder: Path, progress: Report) -> Mapping[str, str]:
        """See `Target.emit`: writes the model, and the file of its own weights, if there are some."""
        from compiler.store.constant_loader import constant_loader

        name = f"rank{rank.rank}.onnx"
        graph = replace(rank.graph, root=str(folder))
        model, data = self._made(graph, constant_loader(graph), f"{name}.data")
        (folder / name).write_bytes(model.SerializeToString())
        if not data.parts:
            return {"model": name}
        data.write(folder, progress)
        return {"model": name, "weights_of_model": data.name}

    def _outline(self, graph: Graph) -> tuple[Any, Any]:
        """The model and the file of its weights, of which none is there."""
        return self._made(graph, _absent, "rank0.onnx.data")

    def _made(self, graph: Graph, load: Callable[[Any], Any], name: str) -> tuple[Any, Any]:
        from llmc_onnx.data_file import DataFile
        from llmc_onnx.model import make_model

        data = DataFile(name)
        return make_model(graph, load, data, round_inputs=self.inputs == "int8"), data

    @classmethod
    def facts(
        cls, folder: Path, files: Mapping[str, str], *, compute_capabilities: Sequence[str] = (), layers: bool = False
    ) -> Mapping[str, Any] | None:
        """What `llmc inspect --json` says: the opsets, the number of nodes of each operator, and the files."""
        if find_spec("onnx") is None:
            return None
        model = read_model(folder / files["model"])
        nodes = Counter(node.op_type for node in model.graph.node)
        names = [files[role] for role in ("model", "weights_of_model") if role in files]
        return {
            "opsets": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
            "nodes": dict(nodes.most_common()),
            "files": {name: (folder / name).stat().st_size for name in names},
        }

    @classmethod
    def fact_rows(cls, facts: Mapping[str, Any], plan: str | None) -> Sequence[tuple[str, str]]:
        """What `llmc inspect` prints."""
        opsets = ", ".join(f"{domain} {version}" for domain, version in facts["opsets"].items())
        files = ", ".join(f"{name} {bytes_text(size)}" for name, size in facts["files"].items())
        return [("onnx", f"{sum(facts['nodes'].values())} nodes, opset {opsets}; {files}")]

    @classmethod
    def plan_files(cls, facts: Mapping[str, Any]) -> Collection[str]:
        """Those of the engine's files that facts tell of."""
        return set(facts["files"])


def read_model(path: Path) -> Any:
    """The model of a file, without its weights; EngineError if it cannot be read."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise EngineError(f"cannot read {path}: {error}", hint="compile the engine again") from None


def _absent(value: object) -> Any:
    raise AssertionError(f"{value} was read before there are weights")
