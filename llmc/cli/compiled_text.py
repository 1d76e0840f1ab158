"""What `llmc compile` prints of an engine, or of a dry run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.cli.console import grid, table, terminal_width

if TYPE_CHECKING:
    from llmc.compiling.driver import Compiled
    from llmc.compiling.dry_run import DryRun
    from llmc.step_cost import StepBytes
    from runtime.engine_dir.manifest import Manifest


def made_text(made: Compiled | DryRun) -> str:
    """The engine, or what it would be, in a few lines."""
    from llmc.compiling.driver import Compiled

    if not isinstance(made, Compiled):
        return _dry_run(made)
    quantized = list(filter(None, [made.fidelity.text(width=terminal_width())]))
    return "\n".join([*quantized, _engine(made)])


def times_text(phases: Mapping[str, float], passes: Mapping[str, float]) -> str:
    """The seconds of each phase, and of each pass within the phase `rewrite`."""
    rows = []
    for phase, seconds in phases.items():
        rows.append((phase, f"{seconds:.3f}"))
        rows += [(f"  {name}", f"{taken:.3f}") for name, taken in passes.items() if phase == "rewrite"]
    return grid(("", "seconds"), [*rows, ("in all", f"{sum(phases.values()):.3f}")])


def _engine(compiled: Compiled) -> str:
    from compiler.sizes import bytes_text

    size = sum(entry.bytes for entry in compiled.manifest.files.values())
    return table(
        [
            ("engine", f"{_shown(compiled.path)} ({bytes_text(size)})"),
            *_facts(compiled.manifest, _targets(compiled.plans, compiled.manifest.targets)),
            ("bound", _bound(compiled.step, compiled.manifest)),
            ("time", _times(compiled.timings)),
            ("run it", f'llmc run {_shown(compiled.path)} --prompt "..."'),
        ],
        wrap=False,
    )


def _dry_run(run: DryRun) -> str:
    from compiler.sizes import bytes_text

    ranks = run.manifest.mesh.size
    return table(
        [
            ("dry run", f"{_shown(run.path)} would be written"),
            *_facts(run.manifest, _targets(run.plans, run.targets) + (f", {ranks} ranks" if ranks > 1 else "")),
            *((f"{target} plans", ", ".join(names)) for target, names in run.plans.items()),
            ("disk", f"about {bytes_text(run.needed_bytes)} needed, {bytes_text(run.free_bytes)} free"),
            ("bound", _bound(run.step, run.manifest)),
            ("time", _times(run.timings)),
        ],
        wrap=False,
    )


def _facts(manifest: Manifest, targets: str) -> Sequence[tuple[str, str]]:
    from compiler.sizes import count_text

    limits, parameters = manifest.limits, count_text(int(manifest.model["parameters"]))
    made_up = ", dummy weights" if manifest.source.dummy_weights else ""
    return [
        ("model", f"{manifest.model['family']}, {parameters} parameters, {manifest.dtype}{made_up}"),
        ("pipeline", manifest.pipeline),
        ("target", targets),
        ("limits", f"batch {limits.max_batch}, prompt {limits.max_input}, sequence {limits.max_seq} tokens"),
    ]


def _bound(step: StepBytes, manifest: Manifest) -> str:
    """The least time of a token of one sequence, by what must be read for it: that of memory, not of this engine."""
    from compiler.sizes import bytes_text
    from llmc.step_cost import usual_bandwidth

    by = " by each rank of a stage" if manifest.mesh.tp > 1 else ""
    read, rate = f"{bytes_text(step.weights)} of weights are read{by}", usual_bandwidth()
    if rate is None:
        return f"{read} for a token"
    least, speed = step.weights / rate.bytes_per_second * 1e3, bytes_text(rate.bytes_per_second)
    return f"a token takes {least:.3g} ms or more: {read} at {speed}/s ({rate.source})"


def _times(timings: Mapping[str, float]) -> str:
    """All of it, and the longest phases."""
    slowest = sorted(timings.items(), key=lambda item: -item[1])[:3]
    return f"{sum(timings.values()):.2f} s ({', '.join(f'{name} {seconds:.2f} s' for name, seconds in slowest)})"


def _targets(plans: Mapping[str, Sequence[str]], targets: Iterable[str]) -> str:
    """`tensorrt-rtx (7 plans), torch`: torch, which every engine has, comes last."""
    counted = (f"{target} ({len(names)} plan{'s' * (len(names) != 1)})" for target, names in plans.items())
    return ", ".join([*counted, *(target for target in targets if target not in plans)])


def _shown(path: Path) -> str:
    """As short as it can be typed here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
