"""TensorRT as targets: an execution plan for each size of step, over the weights that every engine stores."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from compiler.backend_trt.build import build_plans
from compiler.backend_trt.checks import check_plans, held_weights, wanted_plans
from compiler.backend_trt.facts import listed_plans, plan_facts
from compiler.backend_trt.facts_text import chosen_plan, layer_lines, plan_rows
from compiler.backend_trt.options import DEFAULT_CAPABILITIES, BuildOptions
from compiler.backend_trt.support.capability import able
from compiler.errors import TargetError
from compiler.ir.cache_layout import LINEAR
from compiler.ir.graph import Graph
from compiler.ir.paged_layout import layout_of
from compiler.progress import Report
from compiler.store import StoredRank
from compiler.store.constant_loader import constant_loader
from compiler.targets import Fit, Target, register_target
from compiler.targets.target import Facts
from compiler.trt_network.capabilities import CAPABILITIES
from compiler.trt_network.library import PACKAGES, load_library
from compiler.trt_network.plugin_layers import plugin_adder

_BYTES_PER_PLAN = 1 << 23


@dataclass(frozen=True)
class _TensorRT(BuildOptions, Target):
    """What the targets of both TensorRT packages share. Their options are those of `BuildOptions`."""

    name: ClassVar[str]
    section = "tensorrt"

    @classmethod
    def fit(cls) -> Fit:
        """A GPU and a package that runs its engines must be there."""
        import torch

        if not torch.cuda.is_available():
            return Fit(False, f"this machine has no CUDA GPU (TensorRT engines: --target {cls.name})")
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        gpu = f"the {torch.cuda.get_device_name()} ({capability})"
        if find_spec(PACKAGES[cls.name]) and CAPABILITIES[cls.name].runs_on(capability):
            return Fit(True, f"{PACKAGES[cls.name]} is installed and runs on {gpu}")
        return Fit(False, f"no TensorRT package is installed that runs on {gpu}")

    def require_tools(self) -> None:
        """TargetError if the package is not installed, cannot be loaded, or cannot build the plug-ins asked for."""
        library = load_library(self.name)
        if self.plugins:
            plugin_adder(library)

    def check(self, rank: Graph) -> Sequence[str]:
        """See `Target.check`: caches must be linear, and every op in every plan one that TensorRT takes."""
        if layout_of(rank) != LINEAR:
            raise TargetError(
                f"{self.title} runs linear caches, one row for each sequence; those of {rank.name} are paged",
                hint="leave cache=paged out, or compile for the torch target alone: --target torch",
            )
        return [spec.name for spec in check_plans(rank, self)]

    def estimate_bytes(self, rank: Graph) -> int:
        """See `Target.estimate_bytes`: plans of weights in blocks hold these weights themselves."""
        held = {value for op in held_weights(rank, self) for value in op.operands}
        in_a_plan = sum(value.type.nbytes for value in held)
        return (_BYTES_PER_PLAN + in_a_plan) * len(wanted_plans(rank, self))

    def compute_capabilities_of(self, rank: Graph) -> Sequence[str]:
        """See `Target.compute_capabilities_of`."""
        usual = tuple(one for one in able(rank) if one in DEFAULT_CAPABILITIES)
        return self.compute_capability or usual

    def emit(self, rank: StoredRank, folder: Path, progress: Report) -> Mapping[str, str]:
        """See `Target.emit`: builds the plans, and writes a list of them."""
        graph = replace(rank.graph, root=str(folder))
        name = f"rank{rank.rank}.{self.name}"
        file = build_plans(
            load_library(self.name), graph, constant_loader(graph), folder, rank.weights_file,
            name=name, options=self, progress=progress,
        )  # fmt: skip
        return {"plans": file}

    @classmethod
    def plan_names(cls, folder: Path, files: Mapping[str, str]) -> Sequence[str]:
        """See `Target.plan_names`."""
        listed = listed_plans(folder, files)
        return [plan.name for plan in listed.plans] if listed else []

    @classmethod
    def facts(
        cls, folder: Path, files: Mapping[str, str], *, compute_capabilities: Sequence[str] = (), layers: bool = False
    ) -> Facts | None:
        """See `Target.facts`; the keys are in docs/cli.md."""
        return plan_facts(cls.name, folder, files, compute_capabilities=compute_capabilities, layers=layers)

    @classmethod
    def fact_rows(cls, facts: Facts, plan: str | None) -> Sequence[tuple[str, str]]:
        """See `Target.fact_rows`: all plans, and more about one of them."""
        chosen = chosen_plan(facts["plans"], plan)
        return plan_rows(facts, chosen) if chosen else []

    @classmethod
    def layer_lines(cls, facts: Facts, plan: str | None) -> str | None:
        """See `Target.layer_lines`."""
        chosen = chosen_plan(facts["plans"], plan)
        return layer_lines(chosen["layer_list"]) if chosen else None

    @classmethod
    def plan_files(cls, facts: Facts) -> Collection[str]:
        """See `Target.plan_files`."""
        return {plan[key] for plan in facts["plans"] for key in ("engine", "network")}


@register_target("tensorrt-rtx")
@dataclass(frozen=True)
class TensorRTRTX(_TensorRT):
    """Engines of TensorRT-RTX, built with or without a GPU: a plan for each size of step.

    Where such an engine is loaded, its kernels are compiled for the GPU at hand.
    """

    name = "tensorrt-rtx"
    title = "TensorRT-RTX"


@register_target("tensorrt")
@dataclass(frozen=True)
class TensorRT(_TensorRT):
    """Engines of TensorRT, built on the GPU that they are for: a plan for each size of step."""

    name = "tensorrt"
    title = "TensorRT"
