"""The target `portable`: engines that the interpreter runs, with a card that says what is in them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from llmc import Graph
from llmc.targets import (
    EngineError,
    ExecutorKind,
    InterpreterExecutor,
    RankExecutor,
    RankToLoad,
    Report,
    StoredRank,
    Target,
    TargetError,
    register_executor,
)

Files = Mapping[str, str]


@dataclass(frozen=True)
class Portable(Target):
    """A card for each rank that says how many ops of each kind it has."""

    title = "Portable"

    author: Annotated[str, "who signs the cards"] = "nobody"
    without: Annotated[str, "a kind of op that is refused"] = ""

    def check(self, rank: Graph) -> Sequence[str]:
        """Refuse a kind of op, if one is named."""
        refused = [op for op in rank.ops if op.kind.name == self.without]
        if refused:
            raise TargetError(f"{self.without} %{refused[0].name} is not portable", hint="leave out the option without")
        return ["card"]

    def estimate_bytes(self, rank: Graph) -> int:
        """What a card takes."""
        return 4096

    def emit(self, rank: StoredRank, folder: Path, progress: Report) -> Mapping[str, str]:
        """Write the card."""
        name = f"rank{rank.rank}.card.json"
        ops = Counter(op.kind.name for op in rank.graph.ops)
        (folder / name).write_text(json.dumps({"author": self.author, "ops": ops}))
        progress(1, 1)
        return {"card": name}

    @classmethod
    def plan_names(cls, folder: Path, files: Files) -> Sequence[str]:
        """A card is its only plan."""
        return ["card"]

    @classmethod
    def facts(
        cls, folder: Path, files: Files, *, compute_capabilities: Sequence[str] = (), layers: bool = False
    ) -> Mapping[str, Any]:
        """What is on the card."""
        facts: dict[str, Any] = json.loads((folder / files["card"]).read_text())
        return facts

    @classmethod
    def fact_rows(cls, facts: Mapping[str, Any], plan: str | None) -> Sequence[tuple[str, str]]:
        """The card in a line."""
        return [("card", f"{sum(facts['ops'].values())} ops, signed by {facts['author']}")]


@register_executor
class PortableKind(ExecutorKind):
    """Interprets the graph, if there is a card for it."""

    name = "portable"
    summary = "engines with cards"
    targets = ("portable",)
    automatic = True
    cpu_only = True

    def load(self, rank: RankToLoad) -> RankExecutor:
        """Interpret a rank whose card is there."""
        files = rank.folder.rank(rank.target, rank.rank)
        if not (rank.folder.path / files["card"]).is_file():
            raise EngineError("the card is lost", hint="compile again")
        executor = InterpreterExecutor.load(rank.folder.path, files, group=rank.group)
        executor.name = self.name
        return executor
