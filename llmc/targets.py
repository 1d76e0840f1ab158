"""What a target is written with: `from llmc import targets`.

A target is a frozen dataclass under `targets.register`, what runs its files an `ExecutorKind` under
`targets.register_executor`; docs/targets.md is the guide.
"""

from compiler.errors import EngineError, TargetError
from compiler.progress import Report
from compiler.store import StoredRank
from compiler.targets import Fit, Target
from compiler.targets import register_target as register
from runtime.executors.interface import RankExecutor
from runtime.executors.interpreter import InterpreterExecutor
from runtime.executors.kind import ExecutorKind, RankToLoad, register_executor

__all__ = [
    "EngineError",
    "ExecutorKind",
    "Fit",
    "InterpreterExecutor",
    "RankExecutor",
    "RankToLoad",
    "Report",
    "StoredRank",
    "Target",
    "TargetError",
    "register",
    "register_executor",
]
