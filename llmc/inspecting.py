"""The facts that a user asks first, of a checkpoint, an engine, or a graph in a file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compiler.errors import EngineError
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.types import TensorType
from llmc.models import lift
from runtime.engine_folder import open_engine
from runtime.manifest import MANIFEST, Manifest


@dataclass(frozen=True)
class Subject:
    """What a path names.

    Attributes:
        kind: `checkpoint`, `engine` or `graph`.
        path: the path.
        graph: its graph; of a checkpoint as lifted, of an engine that of its first rank.
        manifest: of an engine.
        notes: what lifting found odd.
    """

    kind: str
    path: Path
    graph: Graph
    manifest: Manifest | None = None


def open_subject(path: str | Path, *, dummy_weights: bool = False) -> Subject:
    """What `path` names: an engine, an `.ir` file, or a checkpoint (a folder, or an id of the hub).

    Raises:
        LlmcError: if it is none of these, or damaged.
    """
    given = Path(path).expanduser()
    if given.is_file():
        if given.name == MANIFEST:
            return open_subject(given.parent)
        graph = read_graph(given)
        return Subject("graph", given, replace(graph, root=str(Path(graph.root).resolve())))
    if (given / MANIFEST).is_file():
        folder = open_engine(given, verify=False)
        return Subject("engine", given, read_graph(given / _graph_file(folder.manifest, given)), folder.manifest)
    return Subject("checkpoint", given, lift(str(path), dummy_weights=dummy_weights))


def _graph_file(manifest: Manifest, path: Path) -> str:
    for ranks in manifest.targets.values():
        if "graph" in ranks[0]:
            return ranks[0]["graph"]
    raise EngineError(f"{path} holds no graph", hint="compile the engine with --target torch, too")


def inspect_path(path: str | Path, *, dummy_weights: bool = False) -> dict[str, Any]:
    """The facts about what `path` names, as a JSON object; the keys are in docs/cli.md.

    Raises:
        LlmcError: if it is neither a checkpoint, an engine nor a graph, or damaged.
    """
    subject = open_subject(path, dummy_weights=dummy_weights)
    graph, manifest = subject.graph, subject.manifest
    facts: dict[str, Any] = {"kind": subject.kind, "path": str(subject.path), "facts": dict(graph.facts)}
    facts["weights"] = _weights(graph)
    facts["ops"] = dict(Counter(op.kind.name for op in graph.ops).most_common())
    facts["dims"] = {name: list(sizes) for name, sizes in graph.dims.items()}
    states = graph.states()
    facts["inputs"] = {value.name: str(value.type) for value in graph.inputs if value.name not in states}
    facts["outputs"] = {role: str(value.type) for role, value in graph.outputs.items() if role not in states}
    facts["cache"] = _cache(graph)
    facts["passes"] = sorted({name for op in graph.ops for name in op.origin.passes})
    if manifest:
        content = manifest.to_json()
        facts |= {key: content[key] for key in _MANIFEST_KEYS}
    return facts


_MANIFEST_KEYS = (
    *("llmc", "schema", "tokens", "source", "mesh", "dtype", "limits"),
    *("pipeline", "versions", "targets", "tokenizer", "files"),
)


def _weights(graph: Graph) -> dict[str, Any]:
    """Bytes of the tensors that the graph takes from files or makes up, by element type; each stored tensor once."""
    tensors: dict[tuple[str, int | str], TensorType] = {}
    for op in graph.ops:
        if op.kind.name == "const":
            ref = op.attrs["data"]
            assert isinstance(ref, TensorRef)
            tensors[ref.file, ref.offset] = ref.type
        elif op.kind.name == "random":
            tensors["", op.name] = op.result.type
    by_dtype: Counter[str] = Counter()
    for type_ in tensors.values():
        by_dtype[type_.dtype.value] += type_.nbytes
    return {"tensors": len(tensors), "bytes": by_dtype.total(), "bytes_by_dtype": dict(by_dtype.most_common())}


def _cache(graph: Graph) -> dict[str, int]:
    """Bytes of the caches: for one token of one sequence, and for the largest batch of the longest sequences."""
    sizes = {name: dim.max for name, dim in graph.dims.items()}
    total = 0
    for value, _ in graph.states().values():
        elements = 1
        for size in value.type.sizes(sizes):
            elements *= size
        total += elements * value.type.dtype.bits // 8
    tokens = sizes.get("B", 1) * sizes.get("C", 1)
    return {"states": len(graph.states()), "bytes_per_token": total // tokens, "bytes_at_limits": total}
