"""The table of docs/parallel.md is what the passes do, and its code runs."""

from __future__ import annotations

import re

from compiler.ir.mesh import collectives
from compiler.ir.mesh_weights import weight_report
from compiler.passes.parallel.graph_factors import SHARDING_RULES
from tests.passes.parallel.meshes import AUTOMATIC, FAMILIES, lifted, rewritten
from tests.paths import DOCS, MODELS
from tests.registrations import forgotten

GUIDE = DOCS / "parallel.md"
MESHES = ("", "tp=2", "tp=4", "tp=4,embed=vocab", "tp=4,embed=hidden", "pp=2", "pp=3", "tp=2,embed=vocab,pp=2")


def rows() -> list[str]:
    """A line for each checkpoint and mesh."""
    lines = []
    for family in FAMILIES:
        for passes in MESHES:
            graph = rewritten(lifted(family, "float16"), ",".join(filter(None, (passes, AUTOMATIC))))
            counts = collectives(graph)
            report = weight_report(graph)
            cells = [
                (MODELS / f"{family}-tiny").name,
                f"`{passes}`" if passes else "one rank",
                *(str(counts[kind]) for kind in ("all_reduce", "all_gather", "transfer")),
                *(f"{size:,}" for size in (max(report.ranks), report.once, sum(report.repeated.values()))),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def test_the_table_is_true():
    found = [line for line in GUIDE.read_text().split("\n") if "-tiny |" in line]
    assert found == rows()


def test_the_code_runs(monkeypatch):
    monkeypatch.chdir(GUIDE.parents[1])
    text = GUIDE.read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) == 3
    scope = {"__name__": "guide"}
    with forgotten():
        for block in blocks:
            lines = "\n" * text[: block.start(1)].count("\n")
            exec(compile(lines + block[1], str(GUIDE), "exec", dont_inherit=True), scope)
        assert "my_norm_by_head" in SHARDING_RULES
