"""What `llmc compile` prints of an engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmc.cli.console import table

if TYPE_CHECKING:
    from llmc.compiling import Compiled


def compiled_json(compiled: Compiled) -> dict[str, object]:
    """What `--json` prints."""
    return {
        "path": str(compiled.path),
        "manifest": compiled.manifest.to_json(),
        "timings": dict(compiled.timings),
        "pass_timings": dict(compiled.pass_timings),
        "notes": list(compiled.notes),
        "explanation": compiled.explanation,
        "fidelity": compiled.fidelity.to_json(),
        "plans": {target: list(names) for target, names in compiled.plans.items()},
    }


def summary(compiled: Compiled) -> str:
    """The engine in a few lines."""
    from runtime.sizes import bytes_text, count_text

    manifest, limits = compiled.manifest, compiled.manifest.limits
    size = sum(entry.bytes for entry in manifest.files.values())
    slowest = sorted(compiled.timings.items(), key=lambda item: -item[1])[:3]
    times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in slowest)
    parameters = count_text(int(manifest.model["parameters"]))
    made_up = ", dummy weights" if manifest.source.dummy_weights else ""
    return table(
        [
            ("engine", f"{_shown(compiled.path)} ({bytes_text(size)})"),
            (
                "model",
                f"{manifest.model['family']}, {parameters} parameters, {manifest.dtype}{made_up}",
            ),
            ("pipeline", manifest.pipeline),
            ("target", _targets(compiled)),
            ("limits", f"batch {limits.max_batch}, prompt {limits.max_input}, sequence {limits.max_seq} tokens"),
            ("time", f"{sum(compiled.timings.values()):.2f} s ({times})"),
            ("run it", f'llmc run {_shown(compiled.path)} --prompt "..."'),
        ],
        wrap=False,
    )


def _targets(compiled: Compiled) -> str:
    """`tensorrt-rtx (7 plans), torch`: torch, which every engine has, comes last."""
    plans = compiled.plans
    counted = (f"{target} ({len(names)} plan{'s' * (len(names) != 1)})" for target, names in plans.items())
    return ", ".join([*counted, *(target for target in compiled.manifest.targets if target not in plans)])


def _shown(path: Path) -> str:
    """The path relative to the current folder, if it lies within."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
