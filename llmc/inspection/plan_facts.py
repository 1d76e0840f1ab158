"""The facts about the plans of an engine: TensorRT need not be installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compiler.trt_network.plans import Plans, read_plans
from compiler.trt_network.record import read_record
from llmc.inspection.network_facts import network_facts
from runtime.engine_dir.manifest import Manifest


def plans_target(manifest: Manifest) -> str | None:
    """The first target of an engine that has plans; None if there is none."""
    return next((name for name, ranks in manifest.targets.items() if "plans" in ranks[0]), None)


def listed_plans(folder: Path, manifest: Manifest, target: str) -> Plans | None:
    """The plans of the first rank of a target; None if it has none. EngineError if they cannot be read."""
    file = manifest.targets[target][0].get("plans")
    return None if file is None else read_plans(folder / file)


def plan_names(folder: Path, manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """The names of the plans of each target that has some; EngineError if they cannot be read."""
    listed = {target: listed_plans(folder, manifest, target) for target in manifest.targets}
    return {target: tuple(plan.name for plan in plans.plans) for target, plans in listed.items() if plans}


def plan_facts(folder: Path, manifest: Manifest, *, layers: bool = False) -> dict[str, Any] | None:
    """The facts about the plans of an engine's first rank; None if it has none. The keys are in docs/cli.md.

    Args:
        folder: the engine directory.
        manifest: its manifest.
        layers: whether to list the layers of every plan, too.

    Raises:
        EngineError: if the list of plans or a network record cannot be read.
    """
    target = plans_target(manifest)
    listed = None if target is None else listed_plans(folder, manifest, target)
    if listed is None:
        return None
    records = [read_record(folder / plan.network) for plan in listed.plans]
    plans = [
        {
            "name": plan.name,
            "engine": plan.engine,
            "network": plan.network,
            "engine_bytes": manifest.files[plan.engine].bytes,
            **network_facts(record, layers=layers),
        }
        for plan, record in zip(listed.plans, records, strict=True)
    ]
    return {
        "target": target,
        "package": ", ".join(sorted({record.package for record in records})),
        "capabilities": list(manifest.capabilities),
        "weights_file": listed.weights,
        "weights_bytes": manifest.files[listed.weights].bytes,
        "engine_bytes": sum(int(plan["engine_bytes"]) for plan in plans),
        "plans": plans,
    }
