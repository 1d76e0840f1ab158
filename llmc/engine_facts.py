"""What a manifest says that follows from the graph."""

from __future__ import annotations

import platform
from importlib.metadata import version as package_version

from compiler.ir.graph import Graph
from compiler.ir.mesh import mesh_of
from llmc.dtypes import long_spelling
from runtime.manifest import EngineLimits, Manifest, Source, SpecialTokens

_PACKAGES = ("torch", "transformers", "tokenizers")


def describe_engine(graph: Graph, *, pipeline: str, version: str) -> Manifest:
    """A manifest of what the graph says; the tokens, the source, the files and the targets are still missing."""
    return Manifest(
        llmc=version,
        model=graph.facts,
        tokens=SpecialTokens(),
        source=Source("", ""),
        mesh=mesh_of(graph),
        dtype=long_spelling(str(graph.facts["dtype"])),
        limits=EngineLimits(graph.dims["B"].max, graph.dims["S"].max, graph.dims["C"].max),
        inputs={value.name: str(value.type) for value in graph.inputs},
        outputs={role: str(value.type) for role, value in graph.outputs.items()},
        dims=graph.dims,
        pipeline=pipeline,
        versions={"python": platform.python_version(), **{name: package_version(name) for name in _PACKAGES}},
        targets={},
        tokenizer=None,
        files={},
    )
