"""The kinds of executor that there are: what each runs, where, and how it is loaded. Plug-ins can add some."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from compiler.errors import TargetError
from compiler.plugins import Registry, broken_hint, load_installed
from compiler.suggest import did_you_mean
from compiler.targets import Fit

if TYPE_CHECKING:
    from runtime.collectives.communicator import Communicator
    from runtime.engine_dir.engine_folder import EngineFolder
    from runtime.executors.interface import RankExecutor

AUTO = "auto"


def _say_nothing(text: str) -> None:
    """What a rank tells while nobody listens."""


@dataclass(frozen=True)
class RankToLoad:
    """A rank of an engine that is about to be loaded.

    Attributes:
        folder: the engine.
        target: the target whose files are to be run.
        rank: the rank's number.
        device: as given by the user: `auto`, `cpu`, `cuda` or `cuda:N`.
        batch: how many sequences will usually run at once; None for the engine's largest batch.
        group: the ranks of its stage; None for a rank alone.
        paged: whether linear caches are to be paged, where the kind can do that; caches that were compiled paged are.
        tell: called with a sentence before something that takes long.
    """

    folder: EngineFolder
    target: str
    rank: int = 0
    device: str = AUTO
    batch: int | None = None
    group: Communicator | None = None
    paged: bool = False
    tell: Callable[[str], None] = _say_nothing


class Explained(Protocol):
    """How an executor runs a graph."""

    def lines(self) -> Iterable[str]:
        """It in lines for a person."""
        ...

    def to_json(self) -> dict[str, Any]:
        """It as a JSON object."""
        ...


class ExecutorKind(ABC):
    """A kind of executor, under `@register_executor`.

    Attributes:
        name: what `--executor` calls it.
        summary: what it is, in a few words.
        targets: the targets whose files it runs, the preferred first.
        automatic: whether `--executor auto` may choose it. Of several, the first that was registered is taken; what
            runs files that every engine has comes last.
        timed: whether `auto` measures on a machine which is the fastest of several such kinds that suit it, instead of
            taking the first.
        emulates: whether it stands for an executor that this machine cannot have, only slower.
        cpu_only: whether it computes on the CPU, whatever the machine has.
        pages: whether its caches may be paged, also those of an engine that was compiled with linear ones.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    targets: ClassVar[tuple[str, ...]]
    automatic: ClassVar[bool] = False
    timed: ClassVar[bool] = False
    emulates: ClassVar[bool] = False
    cpu_only: ClassVar[bool] = False
    pages: ClassVar[bool] = False

    def target_of(self, built: Collection[str]) -> str | None:
        """Of the targets that an engine was built for, the one to run; None if it has no files for this executor."""
        return next((target for target in self.targets if target in built), None)

    def fit(self, target: str, device: str) -> Fit:
        """Whether `auto` takes it for files of a target on this machine, and a note for the user if not."""
        return Fit(True)

    def lack(self, folder: EngineFolder, target: str) -> str:
        """Why `auto` leaves an engine to other kinds, although this one fits the machine; empty if it takes it."""
        return ""

    def uses_gpu(self, device: str) -> bool:
        """Whether it computes on a GPU, given a device as the user says it."""
        return not self.cpu_only and device.startswith("cuda")

    def explain(self, folder: EngineFolder, target: str) -> Explained | None:
        """How it would run the first rank of an engine, from the graph alone; None if there is nothing to say.

        Raises:
            LlmcError: if it cannot run the graph, or this machine lacks what it takes to say so.
        """
        return None

    @abstractmethod
    def load(self, rank: RankToLoad) -> RankExecutor:
        """Load a rank.

        Raises:
            EngineError: if its files cannot be read.
            TargetError: if this machine cannot run them.
        """


K = TypeVar("K", bound=type[ExecutorKind])

EXECUTORS = Registry[ExecutorKind]("the executor {!r} exists already", TargetError)
"""The kinds of executor, by name."""


def register_executor(kind: K) -> K:
    """Decorator: add a kind of executor, made without arguments, under its `name`; TargetError if that is taken."""
    if kind.name == AUTO:
        raise TargetError(f"an executor cannot be called {AUTO!r}, which stands for the fastest that there is")
    EXECUTORS.add(kind.name, kind(), kind)
    return kind


def executor_names() -> tuple[str, ...]:
    """What `--executor` takes."""
    load_installed()
    return (AUTO, *EXECUTORS)


def find_executor(name: str) -> ExecutorKind:
    """The kind of executor of that name; TargetError with a suggestion if there is none."""
    kind = EXECUTORS.find(name)
    if kind is None:
        names = executor_names()
        near = did_you_mean(name, names).removeprefix("; ") or None
        raise TargetError(
            f"there is no executor {name!r}; there are: {', '.join(names)}", hint=broken_hint(near or "") or None
        )
    return kind
