"""Messages and progress, on standard error; standard output is for results."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from textwrap import TextWrapper
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_PHASES = {
    "lift": "reading config and headers",
    "rewrite": "rewriting the graph",
    "calibrate": "calibrating",
    "tokenizer": "writing the tokenizer",
    "weights": "writing the weights",
    "build tensorrt-rtx": "building the TensorRT-RTX engine",
    "build tensorrt": "building the TensorRT engine",
    "source digest": "hashing the checkpoint",
    "engine digest": "hashing the engine",
    "verify": "verifying the engine",
    "generate": "generating",
    "load": "loading the engine",
    "files": "writing the config and the tokenizer",
    "check": "reading the checkpoint back",
    "bandwidth": "measuring the bandwidth of the memory",
    "warm up": "warming up",
    "summarize": "summarizing",
    "warm up transformers": "warming up transformers",
    "summarize by transformers": "summarizing by transformers",
}
# Of these phases every step gets a line where there are no bars: one may take long.
_STEP_BY_STEP = ("rewrite",)


def note(text: str) -> None:
    """A sentence that the user may want to know."""
    print(f"note: {text}", file=sys.stderr)


class Console:
    """Shows phases of work: bars on a terminal, else a line per phase, nothing if quiet. A context manager; call it."""

    def __init__(self, *, quiet: bool, bars_only: bool = False) -> None:
        self.lines = not quiet and not bars_only
        self.bars: Bars | None = None
        self.tasks: dict[str, TaskID] = {}
        self.done: dict[str, int] = {}
        self.seen: set[str] = set()
        if not quiet and sys.stderr.isatty():
            self.bars, self.lines = _bars(), False

    def __enter__(self) -> Console:
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: Any, trace: TracebackType | None) -> None:
        if self.bars:
            self.bars.stop()

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Show how far a phase is, and what of it is in work; a total of 0 if that is not known."""
        detail = getattr(phase, "detail", "")
        shown = _PHASES.get(phase, str(phase)) + (f": {detail}" if detail else "")
        if self.bars:
            if phase not in self.tasks:
                self.tasks[phase] = self.bars.add_task(shown, total=None)
            if done < self.done.get(phase, 0):  # the same work once more, such as another pass that calibrates
                self.bars.reset(self.tasks[phase])
            self.done[phase] = done
            self.bars.update(self.tasks[phase], description=shown, completed=done, total=total or None)
        elif self.lines and (line := shown if phase in _STEP_BY_STEP else _PHASES.get(phase, phase)) not in self.seen:
            self.seen.add(line)
            print(f"{line} ...", file=sys.stderr, flush=True)


def _bars() -> Bars:
    """A bar per phase, with the time that it has taken and that it will take, once that can be told."""
    from rich.console import Console as RichConsole
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.text import Text

    class Left(ProgressColumn):
        max_refresh = 0.5

        def render(self, task: Task) -> Text:
            return Text(time_left(None if task.finished else task.time_remaining), style="progress.remaining")

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), Left()
    return Progress(*columns, console=RichConsole(stderr=True), transient=True)


def time_left(seconds: float | None) -> str:
    """`1:02:03 left`, or nothing if it is not known."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} left"


def terminal_width() -> int:
    """How many characters a line may have; 110 where there is no terminal."""
    return shutil.get_terminal_size((110, 24)).columns


def table(rows: Sequence[tuple[str, str]], *, wrap: bool = True) -> str:
    """Two columns, the first as wide as it must be, the second wrapped to the terminal unless it is to be copied.

    Where it is wrapped, what would take more than half of the terminal in the first column has a line of its own.
    """
    if not wrap:
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join(f"{name:{width}}  {text}" for name, text in rows)
    most = terminal_width() // 2
    width = max((len(name) for name, _ in rows if len(name) <= most), default=0)
    indent = " " * (width + 2)
    wrapper = TextWrapper(
        width=terminal_width(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    lines = []
    for name, text in rows:
        if len(name) > most:
            lines.append(name)
            if not text:
                continue
            name = ""
        lines.append(wrapper.fill(f"{name:{width}}  {text}".rstrip()))
    return "\n".join(lines)


def grid(headers: Sequence[str], rows: Sequence[Sequence[str]], *, wrap: bool = True) -> str:
    """Columns under headings; all but the first stand to the right, as figures do.

    On a terminal, what is wider than it is wrapped within its column, unless that is not wanted.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console as RichConsole
    from rich.table import Table

    shown = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, header in enumerate(headers):
        shown.add_column(header, justify="right" if place else "left", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    width = terminal_width() if wrap and sys.stdout.isatty() else 10_000
    console = RichConsole(width=width, color_system=None, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(shown)
    return "\n".join(line.rstrip() for line in captured.get().strip("\n").splitlines())
