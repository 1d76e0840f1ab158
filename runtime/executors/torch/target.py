"""The torch target: it needs no files but the graph and the weights that every engine stores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.ir.graph import Graph
from compiler.progress import Report
from compiler.targets import Target, register_target

if TYPE_CHECKING:
    from compiler.store import StoredRank
    from compiler.targets.op_parts import Lack


@register_target("torch")
@dataclass(frozen=True)
class Torch(Target):
    """The graph and the weights as every engine stores them: run by torch, on a CPU or any CUDA GPU."""

    title = "torch"
    always = True

    def check(self, rank: Graph) -> Sequence[str]:
        """See `Target.check`: each op that runs must have a rule, and an evaluator to be verified by."""
        from compiler.targets.op_parts import refuse

        refuse(_lacks(rank))
        return ()

    def emit(self, rank: StoredRank, folder: Path, progress: Report) -> Mapping[str, str]:
        """Nothing more is written."""
        return {}


def _lacks(rank: Graph) -> Iterator[Lack]:
    import runtime.executors.torch.rules  # noqa: F401 - registers llmc's own
    from compiler.targets.op_parts import EVALUATOR, Lack, PluginPart, is_evaluated
    from runtime.executors.torch.lowering import RULE_DECORATOR, RULES, running_ops

    for op in running_ops(rank):
        rule = PluginPart("rule of the torch executor", RULE_DECORATOR)
        parts = [EVALUATOR] if not is_evaluated(op) else []
        parts += [rule] if RULES.find(op.kind.name) is None else []
        if parts:
            yield Lack(op, tuple(parts))
