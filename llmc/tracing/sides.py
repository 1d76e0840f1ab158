"""Opening what a trace compares: a graph, an engine, a checkpoint, or a checkpoint that `transformers` runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from compiler.errors import RequestError
from compiler.frontends import open_checkpoint
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from llmc.compiling.tokenizer_export import write_tokenizer
from llmc.evaluation.transformers_model import load_transformers
from llmc.inspection.facts import graph_files, open_subject
from llmc.models import lift
from llmc.naming import checkpoint_folder
from llmc.tracing.graph_source import GraphSource
from llmc.tracing.model_source import ModelSource
from llmc.tracing.source import Source
from runtime.engine_dir.engine_folder import open_engine
from runtime.engine_dir.manifest import NoTokenizer, opens_as_engine
from runtime.generation.tokenizer import Tokenizer

TRANSFORMERS = "transformers:"
"""What stands before a checkpoint that `transformers` is to run."""


class Side(NamedTuple):
    """One side of a trace that is not loaded yet.

    Attributes:
        graph: the graph that tells its vocabulary, limits and element type; of an engine that of its first rank.
        load: makes it ready to run.
        tokenizer: reads its tokenizer; None if it has none.
    """

    graph: Graph
    load: Callable[[], Source]
    tokenizer: Callable[[], Tokenizer] | None


def open_side(
    named: str | Path, *, dummy_weights: bool = False, dtype: str = "float32", note: Callable[[str], None]
) -> Side:
    """What a name stands for; only graphs, configs and headers are read.

    Args:
        named: an `.ir` file, an engine, a checkpoint, or `transformers:` and a checkpoint.
        dummy_weights: whether to make the weights of a checkpoint up.
        dtype: the element type that `transformers` computes in.
        note: called with a sentence about each thing that is odd but harmless.

    Raises:
        LlmcError: if it is none of these, or damaged.
    """
    text = str(named)
    if text.startswith(TRANSFORMERS):
        return _model_side(text.removeprefix(TRANSFORMERS), dummy_weights, dtype, note)
    path = Path(named).expanduser()
    if opens_as_engine(path):
        return _engine_side(path)
    subject = open_subject(named, dummy_weights=dummy_weights, note=note)
    if "rank" in subject.graph.facts:
        raise RequestError(
            f"{named} is the graph of rank {subject.graph.facts['rank']}, which does not run without the other ranks",
            hint="give the folder of its engine",
        )
    words = f"{named}, interpreted"
    if subject.kind == "graph":
        return Side(subject.graph, lambda: GraphSource([subject.graph], words), None)
    return Side(subject.graph, lambda: GraphSource([subject.graph], words), _checkpoint_tokenizer(named))


def _engine_side(path: Path) -> Side:
    manifest = open_engine(path, verify=False).manifest
    files = graph_files(manifest, path)
    graphs = [read_graph(path / file) for file in files]
    ranks = f"the graphs of its {len(files)} ranks" if len(files) > 1 else "its graph"
    name = manifest.tokenizer
    return Side(
        graphs[0],
        lambda: GraphSource(graphs, f"{path}, {ranks} interpreted"),
        None if name is None else lambda: Tokenizer(path / name),
    )


def _model_side(name: str, dummy_weights: bool, dtype: str, note: Callable[[str], None]) -> Side:
    if dummy_weights:
        raise RequestError(
            f"transformers cannot run {name} with dummy weights", hint="leave out transformers:, or --dummy-weights"
        )
    if not name:
        raise RequestError("there is no checkpoint behind transformers:", hint="write transformers:my-checkpoint")
    graph = lift(name, note=note)

    def load() -> Source:
        return ModelSource(load_transformers(name, dtype=dtype, device="cpu", end_ids=(), note=note), graph)

    return Side(graph, load, _checkpoint_tokenizer(name))


def _checkpoint_tokenizer(name: str | Path) -> Callable[[], Tokenizer]:
    def read() -> Tokenizer:
        source = open_checkpoint(checkpoint_folder(name), dummy_weights=True).tokenizer
        with TemporaryDirectory() as folder:
            written = write_tokenizer(source, Path(folder))
            if isinstance(written, NoTokenizer):
                raise RequestError(
                    f"{name} has no tokenizer for --prompt: {written.reason}",
                    hint=f"{written.mend}; or give --prompt-ids",
                )
            return Tokenizer(Path(folder) / written)

    return read
