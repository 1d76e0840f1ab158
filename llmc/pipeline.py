"""The pipeline of a compilation: what the user asked for, and what the compiler adds by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.ir.graph import Graph
from compiler.passes import canonical, load_plugin, parse, run_pipeline
from llmc.progress import Progress

# Added after the user's passes, unless the user named them, because no target is fast without them.
AUTOMATIC = ("merge-linears", "fuse-attention", "cleanup")


@dataclass(frozen=True)
class Rewritten:
    """The result of a pipeline.

    Attributes:
        graph: the last graph.
        timings: seconds by pass, in order.
        canonical: the pipeline in canonical spelling.
        explanations: lines on what the passes did; empty unless asked for.
    """

    graph: Graph
    timings: Mapping[str, float]
    canonical: str
    explanations: tuple[str, ...]


def load_plugins(plugins: Sequence[str | Path]) -> None:
    """Import Python files that register passes or ops; PassError if one cannot be."""
    for plugin in plugins:
        load_plugin(Path(plugin))


def compose(passes: str, dtype: str | None) -> str:
    """The whole pipeline of a compilation: the element type first, then the user's passes, then the automatic ones.

    Raises:
        PassError: if the user's text is no pipeline, or names a pass or an option that does not exist.
    """
    given = parse(passes)
    names = {stage.name for stage in given}
    ...


def run(
    graph: Graph,
    passes: str,
    *,
    dump_ir: Path | None = None,
    explain: bool = False,
    progress: Progress | None = None,
) -> Rewritten:
    ...
