"""Running a tool in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.quant_tools.recipes import TOOLS, Run

HERE = Path(__file__).parent


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
        run: what was to be done.
        folder: where the results are.
        error: why there are none.
        version: of the tool.
        seconds: from the start of the process to the saved result.
        cpu_seconds: the time of all its threads.
        stages: seconds by stage: `load`, `quantize` and `save`; llmc does all three in one.
        peak_bytes: the most memory in use (resident).
        scores: of the result: perplexity, its change, and the KL divergence, as text.
        import_error: the share of weights that llmc reads from the tool's checkpoint otherwise than the tool does; None
            where there is nothing to compare.
    """

    run: Run
    folder: Path
    error: str = ""
    version: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0
    scores: list[str] = field(default_factory=list)
    import_error: float | None = None


def start(
    run: Run,
    python: str,
    job: Mapping[str, Any],
    folder: Path,
    limit: float,
) -> Outcome:
    """Run a tool on a checkpoint.

    Args:
        run: what to do.
        python: the interpreter that has the tool.
        job: the fields of the runner's `Job` that are the same for every tool.
        folder: where results go; must not be there yet.
        limit: how many seconds it may take.
    """
    folder.mkdir(parents=True)
    outcome = Outcome(run, folder)
    path = folder / "job.json"
    own = {"folder": str(folder), "recipe": dict(run.settings), "started": time.time()}
    path.write_text(json.dumps({**job, **own}))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [python, str(HERE / f"on_{run.tool}.py"), str(path)],
            env=_environment(job["threads"], run.tool),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            outcome.error = f"stopped after {limit:.0f} s"
            return outcome
    measured = folder / "measured.json"
    if code or not measured.is_file():
        outcome.error = _last_line(folder / "log") or f"exit status {code}"
        return outcome
    vars(outcome).update(json.loads(measured.read_text()))
    return outcome


def environment(text: str) -> tuple[str, str]:
    """A tool and its interpreter, from `TOOL=PYTHON`."""
    tool, _, python = text.partition("=")
    if tool not in TOOLS or not Path(python).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is not TOOL=PYTHON with one of {', '.join(TOOLS)}")
    return tool, python


def _environment(threads: int, tool: str) -> dict[str, str]:
    count = str(threads)
    own = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if tool == "llmc":
        own["PYTHONPATH"] = str(HERE.parents[1])
    return {**os.environ, **own, "CUDA_VISIBLE_DEVICES": ""}


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
