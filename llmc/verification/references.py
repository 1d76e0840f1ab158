"""The graphs that a verification is about: the engine's own, and that of what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compiler.errors import EngineError
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from llmc.inspection.facts import graph_files
from llmc.models import lift
from llmc.opt import optimize
from runtime.engine_dir.engine_folder import open_engine
from runtime.engine_dir.manifest import Manifest, opens_as_engine
from runtime.generation.engine import Engine


@dataclass(frozen=True)
class ReferenceModel:
    """A graph to compare with.

    Attributes:
        graphs: the graph, or those of all ranks of a mesh.
        words: what it is.
        max_seq: how many tokens a sequence may have.
    """

    graphs: tuple[Graph, ...]
    words: str
    max_seq: int

    @property
    def graph(self) -> Graph:
        """The graph, or that of the first rank."""
        return self.graphs[0]


def own_reference(engine: Engine) -> ReferenceModel:
    """The graph of a loaded engine itself."""
    graphs = _stored(engine.path, engine.manifest)
    words = "its own graph, interpreted" if len(graphs) == 1 else "the graphs of its ranks, interpreted together"
    return ReferenceModel(graphs, words, engine.manifest.limits.max_seq)


def _stored(folder: Path, manifest: Manifest) -> tuple[Graph, ...]:
    return tuple(read_graph(folder / file) for file in graph_files(manifest, folder))


def other_reference(against: str | Path, engine: Engine) -> ReferenceModel:
    """The graph of a checkpoint, in float32, or of another engine.

    Raises:
        EngineError: if its vocabulary is another one than the engine's.
        LlmcError: if it cannot be read.
    """
    folder = Path(against).expanduser()
    if opens_as_engine(folder):
        manifest = open_engine(folder).manifest
        graphs, max_seq = _stored(folder, manifest), manifest.limits.max_seq
        words = f"the graph of {against}, interpreted"
    else:
        graphs, max_seq = (_lifted(against, engine.manifest),), engine.manifest.limits.max_seq
        made_up = " with dummy weights" if engine.manifest.source.dummy_weights else ""
        words = f"{against} in float32{made_up}, interpreted"
    size = int(graphs[0].facts["vocab_size"])
    if size != engine.manifest.vocab_size:
        raise EngineError(
            f"{engine.path} has a vocabulary of {engine.manifest.vocab_size} tokens and {against} one of {size}",
            hint="compare it with the checkpoint that it was compiled from",
        )
    return ReferenceModel(graphs, words, max_seq)


def _lifted(model: str | Path, manifest: Manifest) -> Graph:
    limits = manifest.limits
    graph = lift(
        model,
        dummy_weights=manifest.source.dummy_weights,
        max_batch=limits.max_batch,
        max_input=limits.max_input,
        max_seq=limits.max_seq,
    )
    return optimize(graph, "dtype=float32").graph
