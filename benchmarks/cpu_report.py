"""What `cpu.py` found: tables for readers, and JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from cpu_entries import Entry, best_of_others, equal_tokens, share
from cpu_limits import Limits
from rich.table import Table


def tables(entries: Sequence[Entry], limits: Limits) -> Iterator[Table]:
    """A table for each shape, with a section for each precision."""
    for shape in dict.fromkeys(entry.shape for entry in entries):
        table = Table(title=f"{shape}: ms; in brackets the best other's time over llmc's", title_justify="left")
        table.add_column("", no_wrap=True)
        for name in (*Entry.FIGURES, "of bandwidth", "of peak", "equal tokens"):
            table.add_column(name, justify="right")
        for precision in dict.fromkeys(entry.precision for entry in entries if entry.shape == shape):
            group = [entry for entry in entries if (entry.shape, entry.precision) == (shape, precision)]
            table.add_section()
            for entry in group:
                table.add_row(entry.name, *_cells(entry, group, limits))
        yield table


def _cells(entry: Entry, group: list[Entry], limits: Limits) -> list[str]:
    if not entry.seconds:
        return ["not run"]
    best, own = best_of_others(group), entry.figures()
    shares = [
        share(limits.step_ms(entry), own["step, batch 1"]),
        share(limits.prompt_ms(entry), own["prompt 512"]),
        equal_tokens(entry, group),
    ]
    times = [_time(value, best.get(name) if entry.who == "llmc" else None) for name, value in own.items()]
    return [*times, *("" if each is None else f"{each:.0%}" for each in shares)]


def _time(value: float | None, best: float | None) -> str:
    """`12.3 (1.52)`."""
    if value is None:
        return ""
    number = f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return number if best is None else f"{number} ({best / value:.2f})"


def to_json(entries: Sequence[Entry], limits: Limits, threads: int) -> dict[str, Any]:
    """Everything for other programs. Times are milliseconds."""
    rows = []
    for entry in entries:
        group = [other for other in entries if (other.shape, other.precision) == (entry.shape, entry.precision)]
        best, own = best_of_others(group), entry.figures()
        rows.append({
            "shape": entry.shape, "precision": entry.precision, "who": entry.who, "recipe": entry.recipe,
            "executor": entry.executor or None, "ms": own, "failure": entry.failure or None,
            "best_other_over_it": {name: share(best.get(name), value) for name, value in own.items()},
            "bound_ms": {"step, batch 1": limits.step_ms(entry), "prompt 512": limits.prompt_ms(entry)},
            "equal_tokens": equal_tokens(entry, group), "turns": entry.turns,
            "disturbed": [round(part, 3) for part in entry.disturbed], "facts": entry.facts,
        })  # fmt: skip
    return {
        **machine(), "threads": threads, "torch": torch.__version__, "bytes_per_second": limits.reads,
        "operations_per_second": limits.peaks, "rows": rows,
    }  # fmt: skip


def machine() -> dict[str, Any]:
    """The processor's name, and its instruction sets for products."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {"processor": "unknown", "instructions": []}
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    wanted = ("avx2", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return {"processor": facts.get("model name", "unknown"), "instructions": [flag for flag in wanted if flag in flags]}
