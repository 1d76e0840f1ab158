"""The graphs that a verification is about: the engine's own, and that of what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compiler.errors import EngineError
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from llmc.inspecting import graph_file
from llmc.models import lift
from llmc.opt import optimize
from runtime.engine import Engine
from runtime.engine_folder import open_engine
from runtime.manifest import MANIFEST, Manifest


@dataclass(frozen=True)
class ReferenceModel:
    """A graph to compare with.

    Attributes:
        graph: the graph.
        words: what it is.
        max_seq: how many tokens a sequence may have.
    """

    graph: Graph
    words: str
    max_seq: int


def own_reference(engine: Engine) -> ReferenceModel:
    """The graph of a loaded engine itself."""
    graph = read_graph(engine.path / graph_file(engine.manifest, engine.path))
    return ReferenceModel(graph, "its own graph, interpreted", engine.manifest.limits.max_seq)


def other_reference(against: str | Path, engine: Engine) -> ReferenceModel:
    """The graph of a checkpoint, in float32, or of another engine.

    Raises:
        EngineError: if its vocabulary is another one than the engine's.
        LlmcError: if it cannot be read.
    """
    folder = Path(against).expanduser()
    if (folder / MANIFEST).is_file():
        manifest = open_engine(folder).manifest
        graph, max_seq = read_graph(folder / graph_file(manifest, folder)), manifest.limits.max_seq
        words = f"the graph of {against}, interpreted"
    else:
        graph, max_seq = _lifted(against, engine.manifest), engine.manifest.limits.max_seq
        made_up = " with dummy weights" if engine.manifest.source.dummy_weights else ""
        words = f"{against} in float32{made_up}, interpreted"
    size = int(graph.facts["vocab_size"])
    if size != engine.manifest.vocab_size:
        raise EngineError(
            f"{engine.path} has a vocabulary of {engine.manifest.vocab_size} tokens and {against} one of {size}",
            hint="compare it with the checkpoint that it was compiled from",
        )
    return ReferenceModel(graph, words, max_seq)


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
