"""The tests' cases of attention, on a GPU."""

from __future__ import annotations

import contextlib
import time
import traceback
from pathlib import Path
from typing import Any

from graph_timing import START, say

from runtime.executors.cuda.kernels.attention import Workspace


def check() -> int:
    """The tests' cases on the GPU; how many fail."""
    from tests.runtime.executors.cuda.attention_cases import gpu_cases

    failed = count = 0
    for options in gpu_cases():
        count += 1
        try:
            options.make().check(workspace=Workspace())
        except Exception as error:  # noqa: BLE001 - it is reported, and the others go on
            failed += 1
            at = traceback.extract_tb(error.__traceback__)[-1]
            say(f"  WRONG {options}: {type(error).__name__} {str(error)[:300]} [{Path(at.filename).name}:{at.lineno}]")
    say(f"{count - failed} of {count} cases are right, after {time.time() - START:.0f} s")
    return failed


def compile_check(options: Any) -> None:
    """Compile what a case of `check` runs, in a process of its own."""
    with contextlib.suppress(Exception):  # `check` reports it
        options.make().computed()
