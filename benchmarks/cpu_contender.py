"""What `cpu.py` measures, each in a process of its own, which this file is when it is run as a script.

`python cpu_contender.py prepare JOB` writes the files that a contender runs; `serve JOB` opens them and then answers a
line of JSON on standard input, the token ids of prompts and how many new tokens each gets, by one with the seconds that
took, the processor time of all threads, and the new tokens. JOB is a `Job` as JSON. It imports nothing but the module
of its own contender, so that each can have an environment of its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

WIDEST, LONGEST = 8, 576
"""How many sequences run at once, and how many tokens one has, at most."""

MODULES = {
    "llmc": "cpu_llmc",
    "transformers": "cpu_transformers",
    "llama.cpp": "cpu_llama",
    "OpenVINO": "cpu_openvino",
    "CTranslate2": "cpu_ctranslate2",
}
"""The module of each contender: it has `prepare(job)` and `open_contender(job)`."""


@dataclass(frozen=True)
class Job:
    """What a contender is to run.

    Attributes:
        who: a key of `MODULES`.
        recipe: the number format, as the contender calls it.
        checkpoint: the folder of the checkpoint.
        folder: where the contender's own files are; others of its kind and shape have theirs beside it.
        threads: how many threads it computes with.
        options: what else its module needs.
    """

    who: str
    recipe: str
    checkpoint: str
    folder: str
    threads: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> Path:
        """The folder as a path."""
        return Path(self.folder)


class Contender(ABC):
    """Extends prompts greedily."""

    def facts(self) -> dict[str, Any]:
        """What is to be known of it, such as its version."""
        return {}

    def expect(self, batch: int) -> None:
        """Get ready for so many sequences at once; it is called before they come, and not measured."""
        del batch

    @abstractmethod
    def run(self, ids: list[list[int]], new: int) -> list[list[int]]:
        """The `new` next tokens of each of some prompts of one length."""


def main() -> None:
    """The process."""
    action, job = sys.argv[1], Job(**json.loads(sys.argv[2]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    module = import_module(MODULES[job.who])
    if action == "prepare":
        if not job.place.exists():
            module.prepare(job)
        return
    contender: Contender = module.open_contender(job)

    def answer(found: dict[str, Any]) -> None:
        answers.write(json.dumps(found) + "\n")
        answers.flush()

    answer(contender.facts())
    for line in sys.stdin:
        asked = json.loads(line)
        contender.expect(len(asked["ids"]))
        start, computed = time.perf_counter(), time.process_time()
        tokens = contender.run(asked["ids"], asked["new"])
        seconds, computed = time.perf_counter() - start, time.process_time() - computed
        answer({"seconds": seconds, "computed": computed, "tokens": tokens})


if __name__ == "__main__":
    # The module of a contender imports this one by its name, and must find these very classes.
    sys.modules["cpu_contender"] = sys.modules["__main__"]
    main()
