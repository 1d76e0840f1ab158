"""The facts about a rank's execution plans: TensorRT need not be installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compiler.backend_trt.network_facts import network_facts
from compiler.trt_network.plans import Plans, read_plans
from compiler.trt_network.record import read_record


def listed_plans(folder: Path, files: Mapping[str, str]) -> Plans | None:
    """The plans of a rank, by its files; None if it has none. EngineError if they cannot be read."""
    return read_plans(folder / files["plans"]) if "plans" in files else None


def plan_facts(
    target: str,
    folder: Path,
    files: Mapping[str, str],
    *,
    compute_capabilities: Sequence[str] = (),
    layers: bool = False,
) -> dict[str, Any] | None:
    """The facts about the plans of a rank; None if it has none. The keys are in docs/cli.md.

    Args:
        target: the target that they are of.
        folder: the engine directory.
        files: the rank's files, by what they are for.
        compute_capabilities: the GPUs that they are for.
        layers: whether to list the layers of every plan, too.

    Raises:
        EngineError: if the list of plans or a network record cannot be read.
    """
    listed = listed_plans(folder, files)
    if listed is None:
        return None
    records = [read_record(folder / plan.network) for plan in listed.plans]
    plans = [
        {
            "name": plan.name,
            "engine": plan.engine,
            "network": plan.network,
            "engine_bytes": (folder / plan.engine).stat().st_size,
            **network_facts(record, layers=layers),
        }
        for plan, record in zip(listed.plans, records, strict=True)
    ]
    return {
        "target": target,
        "package": ", ".join(sorted({record.package for record in records})),
        "capabilities": list(compute_capabilities),
        "weights_file": listed.weights,
        "weights_bytes": (folder / listed.weights).stat().st_size,
        "engine_bytes": sum(int(plan["engine_bytes"]) for plan in plans),
        "plans": plans,
    }
