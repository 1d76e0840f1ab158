"""What a manifest says that follows from the graph."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version as package_version

from compiler.frontends.registry import FAMILIES
from compiler.ir.analysis import stored_values
from compiler.ir.evaluators.core import EVALUATORS
from compiler.ir.graph import Graph
from compiler.ir.mesh import mesh_of
from compiler.ir.op import OPS
from compiler.ir.step import StepDim
from compiler.ir.tasks import TASKS, tasks_of
from compiler.passes import Pass, Quantize
from compiler.passes.pipeline import pass_name
from compiler.passes.quant.recipe import RECIPES
from compiler.passes.registry import PASSES
from compiler.plugins import Plugin
from compiler.targets import TARGETS
from llmc.dtypes import long_spelling
from runtime.engine_dir.manifest import EngineLimits, Manifest, Source, SpecialTokens
from runtime.engine_dir.used_plugins import UsedPlugin
from runtime.executors.torch.lowering import RULES

_PACKAGES = ("torch", "transformers", "tokenizers")


def describe_engine(graph: Graph, *, pipeline: str, version: str) -> Manifest:
    """A manifest of what the graph says; the tokens, the source, the files and the targets are still missing."""
    return Manifest(
        llmc=version,
        model={name: fact for name, fact in graph.facts.items() if name != TASKS},
        tokens=SpecialTokens(),
        source=Source("", ""),
        mesh=mesh_of(graph),
        dtype=long_spelling(str(graph.facts["dtype"])),
        limits=EngineLimits(*(graph.dims[dim].max for dim in (StepDim.BATCH, StepDim.LENGTH, StepDim.CAPACITY))),
        inputs={value.name: str(value.type) for value in graph.inputs},
        outputs={role: str(value.type) for role, value in graph.outputs.items()},
        dims=graph.dims,
        pipeline=pipeline,
        versions={"python": platform.python_version(), **{name: package_version(name) for name in _PACKAGES}},
        targets={},
        tokenizer=None,
        files={},
        tasks=tasks_of(graph.facts),
    )


def used_plugins(graph: Graph, passes: Sequence[Pass], targets: Iterable[str]) -> tuple[UsedPlugin, ...]:
    """The plug-ins whose ops, passes, targets or family an engine uses, by name.

    Args:
        graph: the graph after all passes. What only computes weights is not among its ops.
        passes: the pipeline.
        targets: the names of the targets.
    """
    stored = stored_values(graph)
    kinds = sorted({op.kind.name for op in graph.ops if op.name not in stored})
    found: dict[Plugin, dict[str, list[str]]] = {}
    algorithms = [step.algorithm for step in passes if isinstance(step, Quantize)]
    for use, name, plugin in (
        *(("ops", kind, OPS.plugin(kind)) for kind in kinds),
        *(("rules", kind, plugin) for kind in kinds for plugin in _rules(kind)),
        *(("passes", name, PASSES.plugin(name)) for name in map(pass_name, passes)),
        *(("passes", f"quant={name}", RECIPES.plugin(name)) for name in algorithms),
        *(("families", name, FAMILIES.plugin(name)) for name in [str(graph.facts.get("family"))]),
        *(("targets", name, TARGETS.plugin(name)) for name in targets),
    ):
        if plugin is not None:
            found.setdefault(plugin, {}).setdefault(use, []).append(name)
    ordered = sorted(found.items(), key=lambda item: item[0].name)
    return tuple(
        UsedPlugin(plugin, **{use: tuple(dict.fromkeys(names)) for use, names in uses.items()})
        for plugin, uses in ordered
    )


def _rules(kind: str) -> Iterator[Plugin | None]:
    """What runs a kind of op, where that is not the plug-in that defines it."""
    return (plugin for table in (EVALUATORS, RULES) if (plugin := table.plugin(kind)) != OPS.plugin(kind))
