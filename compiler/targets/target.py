"""What a target is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from compiler.ir.graph import Graph
from compiler.progress import Report

if TYPE_CHECKING:
    from compiler.store import StoredRank

Facts = Mapping[str, Any]


class Fit(NamedTuple):
    """Whether something suits this machine, and why or why not, as the rest of a sentence."""

    suits: bool
    why: str = ""


@dataclass(frozen=True)
class Target(ABC):
    """A form that the ranks of an engine are written in, beside the graph and the weights that every engine has.

    A target is a frozen dataclass under `@register_target("name")`; its fields are its options, in texts such as
    `name:option=value`. The methods are called in the order in which they are listed here; all but `emit` have defaults
    for a target that needs nothing.

    Attributes:
        title: what progress and messages call the target.
        section: the key of its facts in `llmc inspect --json`; the name that it is registered under if empty.
        always: whether every engine has it, because it runs the graph and the weights as they are stored.
    """

    title: ClassVar[str]
    section: ClassVar[str] = ""
    always: ClassVar[bool] = False

    @classmethod
    def fit(cls) -> Fit:
        """Whether `--target auto` takes the target on this machine."""
        return Fit(False)

    def require_tools(self) -> None:
        """Raise a TargetError, with the mend, if this machine cannot build for the target."""
        return

    def check(self, rank: Graph) -> Sequence[str]:
        """Refuse a graph that cannot be built or run, from its ops and types; nothing is read or written.

        Args:
            rank: the graph of one rank, its constants as they will be stored.

        Returns:
            The names of the execution plans that the rank will get; none if the target has no such thing.

        Raises:
            TargetError: naming the ops, or the GPU, and the mend.
        """
        return ()

    def estimate_bytes(self, rank: Graph) -> int:
        """About how many bytes the target's own files of a rank take."""
        return 0

    def compute_capabilities_of(self, rank: Graph) -> Sequence[str]:
        """The compute capabilities of the GPUs that the files are for, such as `8.9`; none if for any device."""
        return ()

    @abstractmethod
    def emit(self, rank: StoredRank, folder: Path, progress: Report) -> Mapping[str, str]:
        """Write the target's own files of a rank.

        Args:
            rank: the rank, whose graph and weights lie in the folder.
            folder: the engine directory under construction.
            progress: called with how much is done and in total.

        Returns:
            The name of each file that the manifest lists for the rank, by what it is for.

        Raises:
            TargetError: if the rank cannot be built, naming the op and the mend.
            OSError: if the folder cannot be written.
        """

    @classmethod
    def plan_names(cls, folder: Path, files: Mapping[str, str]) -> Sequence[str]:
        """The names of the execution plans of a rank in an engine directory; EngineError if they cannot be read."""
        return ()

    @classmethod
    def facts(
        cls, folder: Path, files: Mapping[str, str], *, compute_capabilities: Sequence[str] = (), layers: bool = False
    ) -> Facts | None:
        """What `llmc inspect --json` says of a rank's files; None for nothing.

        Args:
            folder: the engine directory.
            files: the name of each file that the manifest lists for the rank, by what it is for.
            compute_capabilities: the GPUs that the manifest says they are for.
            layers: whether to list the layers of execution plans, too.

        Raises:
            EngineError: if a file cannot be read.
        """
        return None

    @classmethod
    def fact_rows(cls, facts: Facts, plan: str | None) -> Sequence[tuple[str, str]]:
        """What `llmc inspect` prints of facts: rows of a label and a text.

        Args:
            facts: what `facts` returned.
            plan: the execution plan to tell more about; one that the target chooses if None.

        Raises:
            EngineError: naming those there are, if there is no such plan.
        """
        return [(name, str(value)) for name, value in facts.items()]

    @classmethod
    def layer_lines(cls, facts: Facts, plan: str | None) -> str | None:
        """What `llmc inspect --layers` prints: a line per layer of a plan; None if there are none to list."""
        return None

    @classmethod
    def plan_files(cls, facts: Facts) -> Collection[str]:
        """Those of the engine's files that facts tell of, so that `llmc inspect` need not list them again."""
        return ()
