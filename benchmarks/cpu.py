r"""llmc and others on one CPU: `python benchmarks/cpu.py --peers /tmp/peers/bin/python`.

For shapes with random weights, in one run, with as many threads each: milliseconds of a decode step at batch 1 and 8,
as (t(64 new) - t(8 new)) / 56 after prompts of 64 tokens, and the time to the first token of a prompt of 64, of eight
of them, and of one of 512. Beside llmc stand transformers, and those of llama.cpp, OpenVINO and CTranslate2 that the
interpreter of `--peers` has. Each is a process that stays open; within a precision they are asked in turns, and
medians count. The bandwidth of reading memory and the rate of large products are measured between the turns: a step
can be no faster than reading its weights, a prompt no faster than its products.

The environment of the others, in which llama.cpp is compiled for the processor that it is on:

    python3 -m venv /tmp/peers
    /tmp/peers/bin/pip install torch==2.13.0+cpu               # the CPU build of torch first
    /tmp/peers/bin/pip install --no-deps optimum-intel==2.2.0  # it asks for torchvision, which would replace torch
    /tmp/peers/bin/pip install optimum==2.3.0 transformers==5.5.4 openvino==2026.4.1 nncf==3.4.0 \
        ctranslate2==4.8.5 gguf==0.19.0 llama-cpp-python==0.3.36

llama.cpp has no architecture for OPT. `--folder` keeps checkpoints and what contenders made of them, which takes
minutes; `--prepare` makes them and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # before torch, as in the contenders

import psutil
import torch
from cpu_contender import MODULES
from cpu_entries import LOADS, PRECISIONS, Entry
from cpu_limits import Limits
from cpu_processes import ContenderError, Process
from cpu_report import machine, tables, to_json
from cpu_shapes import SHAPES, write_checkpoint
from rich.console import Console

WIDTH = 180
CONSOLE = Console(width=WIDTH, stderr=True)
say = partial(CONSOLE.print, highlight=False, markup=False)


class Measuring:
    """All that is measured."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given, self.folder = given, folder
        self.limits, self.entries = Limits(), list[Entry]()
        self.end = time.monotonic() + given.limit

    def all_of(self, shape: str, precision: str) -> None:
        """Measure all contenders of a shape and a precision; one that fails is left out."""
        folder = self.folder / shape
        folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(shape, folder / "checkpoint")
        waiting = self._contenders(shape, precision)
        self.entries += waiting
        rounds = 0
        while waiting:
            with ExitStack() as stack:
                opened: list[tuple[Entry, Process]] = []
                while waiting and not (opened and self._is_full(waiting[0], folder)):
                    entry = waiting.pop(0)
                    if process := self._opened(entry, folder):
                        stack.callback(process.close)
                        opened.append((entry, process))
                if not self.given.prepare:
                    rounds += 1
                    self._turns(opened)
        if rounds > 1:
            say(f"{shape} {precision}: {rounds} rounds, as memory does not hold all at once")

    def _contenders(self, shape: str, precision: str) -> list[Entry]:
        found = []
        for who, recipes in PRECISIONS[precision].items():
            if who not in self.given.only or (who == "llama.cpp" and not shape.startswith("pythia")):
                continue
            for recipe in recipes:
                executors = self.given.executors if who == "llmc" else [""]
                found += [Entry(shape, precision, who, recipe, executor) for executor in executors]
        return [entry for entry in found if self.given.recipes is None or entry.recipe in self.given.recipes]

    def _opened(self, entry: Entry, folder: Path) -> Process | None:
        python = sys.executable if entry.who in ("llmc", "transformers") else self.given.peers
        if not python:
            entry.failure = "--peers names no interpreter"
            return None
        try:
            process = Process(entry.job(folder, self.given.threads), python, self.given.patience)
        except ContenderError as error:
            self._failed(entry, error)
            return None
        entry.facts = process.facts
        return process

    def _is_full(self, entry: Entry, folder: Path) -> bool:
        """Whether memory has no room for the files of another contender, and as much again."""
        files = [file.stat().st_size for file in (folder / "checkpoint").glob("*.safetensors")]
        share = {"float32": 1.0, "16-bit": 0.5}.get(entry.precision, 0.4)
        return psutil.virtual_memory().available < 2 * share * sum(files) + 2**31

    def _turns(self, opened: list[tuple[Entry, Process]]) -> None:
        """Ask all in turns. The first turn of a load is made whatever the time is."""
        for (batch, prompt), news in LOADS.items():
            began = time.monotonic()
            self._ask(opened, batch, prompt, (2,), seed=-1)
            self.limits.look_at_products()
            for turn in range(self.given.turns):
                if turn and time.monotonic() > self.end:
                    say(f"the time is over: {turn} of {self.given.turns} turns for {batch} x {prompt}")
                    break
                self.limits.look_at_memory()
                self._ask(opened, batch, prompt, news, seed=turn)
            say(f"{len(opened)} contenders, {batch} x {prompt}: {time.monotonic() - began:.0f} s")

    def _ask(
        self, opened: list[tuple[Entry, Process]], batch: int, prompt: int, news: tuple[int, ...], seed: int
    ) -> None:
        """Ask each for so many new tokens; answers to a negative seed do not count."""
        for new in news:
            draw = random.Random(f"{seed} {batch} {prompt} {new}")
            ids = [[draw.randrange(5, 50000) for _ in range(prompt)] for _ in range(batch)]
            for entry, process in list(opened):
                try:
                    answer = process.ask(ids, new)
                except ContenderError as error:
                    self._failed(entry, error)
                    opened.remove((entry, process))
                    continue
                if seed >= 0:
                    entry.add(batch, prompt, new, answer)

    def _failed(self, entry: Entry, error: ContenderError) -> None:
        entry.failure = str(error)
        say(f"{entry.shape} {entry.name}: {error}")


def names(known: Any) -> Any:
    """A type of arguments: names of what is known, joined by commas."""

    def parse(text: str) -> list[str]:
        given = [name for name in text.split(",") if name]
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"there is no {name!r}; there are: {', '.join(known)}")
        return given

    return parse


def positive(text: str) -> int:
    """A type of arguments: an integer of at least 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError("must be an integer of at least 1")
    return int(text)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = psutil.cpu_count(logical=False) or 1
    parser.add_argument("--shapes", type=names(SHAPES), default=["opt-125m", "pythia-160m", "pythia-1.4b"],
                        help=f"of {', '.join(SHAPES)}")  # fmt: skip
    parser.add_argument(
        "--precisions", type=names(PRECISIONS), default=list(PRECISIONS), help="of " + ", ".join(PRECISIONS)
    )
    parser.add_argument("--only", type=names(MODULES), default=list(MODULES), help="of " + ", ".join(MODULES))
    parser.add_argument("--recipes", type=lambda text: text.split(";"), help="only these, with ; between")
    parser.add_argument("--executors", type=lambda text: text.split(","), default=["torch"], help="llmc's, with commas")
    parser.add_argument("--peers", default="", metavar="PYTHON", help="the interpreter that has the others' packages")
    parser.add_argument("--threads", type=positive, default=cores, help="threads of each (default: all cores)")
    parser.add_argument("--turns", type=positive, default=3, help="how often each is asked")
    parser.add_argument("--limit", type=float, default=3600, help="seconds after which no further turn begins")
    parser.add_argument("--patience", type=float, default=900, help="seconds that an answer, or preparing, may take")
    parser.add_argument("--folder", type=Path, help="keep checkpoints and the contenders' files here")
    parser.add_argument("--prepare", action="store_true", help="make the files of --folder, and measure nothing")
    parser.add_argument("--json", action="store_true", help="print JSON; the tables go to standard error")
    given = parser.parse_args()
    if given.prepare and not given.folder:
        parser.error("--prepare needs --folder")
    return given


def main() -> None:
    """Measure, and print the tables."""
    given = arguments()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory(prefix="llmc-cpu-") as temporary:
        measuring = Measuring(given, given.folder or Path(temporary))
        for shape in given.shapes:
            for precision in given.precisions:
                if time.monotonic() < measuring.end:
                    measuring.all_of(shape, precision)
    if given.prepare:
        return
    limits, found = measuring.limits, machine()
    rates = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in limits.peaks.items())
    say(
        f"{found['processor']} ({' '.join(found['instructions'])}), {given.threads} threads: "
        f"reads {limits.reads / 1e9:.1f} GB/s; products, 10^9 operations a second: {rates}",
        soft_wrap=True,
    )
    disturbed = [part for entry in measuring.entries for part in entry.disturbed]
    if disturbed and (worst := max(disturbed)) > 0.05:
        part = statistics.mean(disturbed)
        say(f"others took {part:.0%} of the processors meanwhile, {worst:.0%} during one answer: distrust these times")
    console = CONSOLE if given.json else Console(width=WIDTH)
    for table in tables(measuring.entries, limits):
        console.print(table)
    if given.json:
        json.dump(to_json(measuring.entries, limits, given.threads), sys.stdout, indent=1)
        print()


if __name__ == "__main__":
    main()
