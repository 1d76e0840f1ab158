"""Whether TensorRT builds exactly what llmc declares: `python -m benchmarks.support_sweep` (three minutes).

One network for each kind of op, element type and shape of `tests/backend_trt/cases` is built with llmc's own checks
off, and what was built is run in the emulator beside the interpreter. `--write docs/support.md` writes the table; with
`--kind NAME`, which takes seconds, it renews the rows of those kinds and keeps the others.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import Pool
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from compiler.backend_trt.support.declared import SUPPORT
from compiler.errors import GraphError
from compiler.trt_network.capabilities import CAPABILITIES
from tests.backend_trt.build_checks import build_and_compare
from tests.backend_trt.cases.case_builder import Case
from tests.backend_trt.cases.every import every_case

BUILT, REFUSED, MISMATCH = "built", "refused", "mismatch"


class Outcome(NamedTuple):
    """What became of a case: built or refused as declared, or how it differs from that."""

    case: str
    kind: str
    state: str
    detail: str = ""


def judge(index: int) -> Outcome | None:
    """The outcome of a case; None if the rules of the IR forbid it."""
    torch.set_num_threads(1)
    case = _CASES[index]
    try:
        graph, made = case.graph()
    except GraphError:
        return None
    result = build_and_compare(graph, made.weights, made.values)
    mismatch = result.mismatch(graph)
    name = f"{case.kind} {case.dtype} {case.label}"
    return Outcome(name, case.kind, MISMATCH if mismatch else BUILT if result.builds else REFUSED, mismatch)


def sweep(count: int, jobs: int) -> Iterator[Outcome]:
    """The outcomes of all cases, in order."""
    with Pool(jobs) as pool:
        yield from filter(None, pool.imap(judge, range(count), chunksize=16))


KINDS = tuple(dict.fromkeys(case.kind for case in every_case()))
"""The kinds that have cases, in the order of the page."""
Rows = Mapping[str, tuple[str, ...]]
"""For each kind its row: the cells of `HEAD`."""


def rows(outcomes: Sequence[Outcome]) -> Rows:
    """A row for each kind: what is declared, and how many cases became what."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        counts[outcome.kind][outcome.state] += 1
    return {
        kind: (kind, *declared(kind), *(str(count[state]) for state in (BUILT, REFUSED, MISMATCH)))
        for kind, count in counts.items()
    }


def declared(kind: str) -> tuple[str, str]:
    """The cells of what is declared of a kind."""
    entry = SUPPORT.get(kind)
    return ("any but i8 constants", "") if entry is None else (entry.types_text, entry.conditions_text)


HEAD = ("op", "element types", "what else must hold", "built", "refused", "mismatches")


def rows_of(page: str) -> Rows:
    """The rows of a page that `markdown` wrote, of kinds that still have cases."""
    cells = [
        tuple(cell.strip() for cell in line.strip("|").split("|")) for line in page.splitlines() if line[:1] == "|"
    ]
    return {row[0]: row for row in cells if len(row) == len(HEAD) and row[0] in KINDS}


def markdown(table_rows: Rows) -> str:
    """The page about support, with these rows."""
    found = [table_rows[kind] for kind in KINDS if kind in table_rows]
    lines = [" | ".join(HEAD), "|".join(["---"] * len(HEAD)), *(" | ".join(row) for row in found)]
    count = sum(int(cell) for row in found for cell in row[-3:])
    targets = [
        f"| `{target}` | {package.swept or 'not tried: it builds only where there is a GPU; taken to be the same'} |"
        for target, package in CAPABILITIES.items()
    ]
    table = "\n".join(f"| {line} |" for line in lines)
    return _PAGE.format(targets="\n".join(targets), table=table, count=count)


_PAGE = """# What TensorRT takes

`compiler/backend_trt/support/declared.py` says for each kind of op which element types TensorRT takes and what else
must hold. The graph of each plan is held against it before anything is built, and all that is missing is reported at
once: the op, where it came from, what is missing, and the mend.

| target | this table |
|---|---|
{targets}

`python -m benchmarks.support_sweep --write docs/support.md` wrote this page. It builds one network for each of {count}
cases (kinds of op, element types, ranks of 0 to 9, dims of 0 and 1, static and dynamic dims, broadcasting, constants
and weights as operands, widths and groups of heads) with llmc's own checks off. *Built* and *refused* are cases where
TensorRT did as declared; what was built gave in the emulator what the interpreter gives. That a network builds does
not say that every GPU has kernels for it.

For all ops: tensors have at most 8 dims, and constants that become layers are not of i8 or f8e4m3, which TensorRT takes
for quantized weights only. u8 is declared where TensorRT takes it; the emitter has no name for it yet,
so llmc refuses it. f64 and i4 count among the refused, but TensorRT was not asked: it has no f64, and i4, which torch
has no tensors of, was left out (TensorRT does build a reshape or transpose of it).

{table}
"""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", action="append", help="only this kind of op; may be given again")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--write", type=Path, help="write the page here; with --kind, renew those rows of it")
    options = parser.parse_args()
    if unknown := [kind for kind in options.kind or () if kind not in KINDS]:
        parser.error(f"tests/backend_trt/cases has no cases of {', '.join(unknown)}")
    if options.kind and options.write and not options.write.exists():
        parser.error(f"there is no page {options.write} to renew rows of; without --kind, it is written")
    return options


def main() -> None:
    """Sweep, print, and exit with status 1 if anything differs from what is declared."""
    console = Console()
    outcomes = list(sweep(len(_CASES), _OPTIONS.jobs))
    renewed = rows(outcomes)
    table = Table(*HEAD)
    for row in renewed.values():
        table.add_row(*row)
    console.print(table)
    wrong = [outcome for outcome in outcomes if outcome.state == MISMATCH]
    for outcome in wrong:
        console.print(f"{outcome.case}: {outcome.detail}", markup=False)
    if _OPTIONS.write:
        kept = rows_of(_OPTIONS.write.read_text(encoding="utf-8")) if _OPTIONS.kind else {}
        _OPTIONS.write.write_text(markdown({**kept, **renewed}), encoding="utf-8")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    _OPTIONS = _arguments()
    _CASES: list[Case] = [case for case in every_case() if not _OPTIONS.kind or case.kind in _OPTIONS.kind]
    main()
