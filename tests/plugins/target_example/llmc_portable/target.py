"""The target and its executor."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

from compiler.errors import EngineError, TargetError
from compiler.targets import Target
from runtime.executors.interpreter import InterpreterExecutor
from runtime.executors.kind import ExecutorKind, register_executor


@dataclass(frozen=True)
class Portable(Target):
    """A card for each rank that says how many ops of each kind it has."""

    title = "Portable"

    author: Annotated[str, "who signs the cards"] = "nobody"
    without: Annotated[str, "a kind of op that is refused"] = ""

    def check(self, rank):
        refused = [op for op in rank.ops if op.kind.name == self.without]
        if refused:
            raise TargetError(f"{self.without} %{refused[0].name} is not portable", hint="leave out the option without")
        return ["card"]

    def estimate_bytes(self, rank):
        return 4096

    def emit(self, rank, folder, progress):
        name = f"rank{rank.rank}.card.json"
        ops = Counter(op.kind.name for op in rank.graph.ops)
        (folder / name).write_text(json.dumps({"author": self.author, "ops": ops}))
        progress(1, 1)
        return {"card": name}

    @classmethod
    def plan_names(cls, folder, files):
        return ["card"]

    @classmethod
    def facts(cls, folder, files, *, compute_capabilities=(), layers=False):
        return json.loads((folder / files["card"]).read_text())

    @classmethod
    def fact_rows(cls, facts, plan):
        return [("card", f"{sum(facts['ops'].values())} ops, signed by {facts['author']}")]


@register_executor
class PortableKind(ExecutorKind):
    """Interprets the graph, if there is a card for it."""

    name = "portable"
    summary = "engines with cards"
    targets = ("portable",)
    automatic = True
    cpu_only = True

    def load(self, rank):
        files = rank.folder.rank(rank.target, rank.rank)
        if not (rank.folder.path / files["card"]).is_file():
            raise EngineError("the card is lost", hint="compile again")
        executor = InterpreterExecutor.load(rank.folder.path, files, group=rank.group)
        executor.name = self.name
        return executor
