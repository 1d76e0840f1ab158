"""The interfaces that every executor has, whatever runs the model beneath: of a model, and of one stage of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from compiler.errors import RequestError
from compiler.ir.cache_layout import CacheLayout
from compiler.ir.chunks import in_chunks
from compiler.ir.step import LOGITS, Step
from runtime.executors.memory import memory_for


class Session(Protocol):
    """A batch of sequences in progress, with their caches. Row b of the batch is a slot that can be reused.

    Attributes:
        batch: how many rows there are.
        capacity: how many tokens a row holds.
    """

    batch: int
    capacity: int

    def step(self, step: Step, first_row: int = 0) -> Tensor:
        """Run the model over the next tokens of some rows and update their caches in place.

        Args:
            step: what is to be done; of as many rows as it has, which need not be all of the session's.
            first_row: the row of the session that the step's first row is; the others follow it.

        Returns:
            The logits `[B, R, vocabulary]`, floating-point, on the CPU or the executor's device. The memory may be
            used again by the next step.
        """
        ...

    def copy_rows(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """Make row `destinations[i]` of every cache what row `sources[i]` was before the call, for all i at once.

        A sequence can so go on in several rows, and rows can change places. Rows that are no destinations stay.

        Args:
            sources: rows of the batch; a row may be there several times.
            destinations: as many rows of the batch, each once.

        Raises:
            RequestError: if these are no such rows; before anything is changed.
        """
        ...


class Executor(Protocol):
    """A loaded model."""

    name: str
    """How messages call the executor: `torch`."""

    def open(self, batch: int, capacity: int) -> Session:
        """Allocate caches for `batch` sequences of at most `capacity` tokens each.

        Raises:
            RequestError: if the engine was not built for so many, or the memory does not suffice.
        """
        ...


class StageSession(Protocol):
    """One stage's part of a batch of sequences in progress.

    Attributes:
        chunk: how many tokens of a row a step may have at most. Longer steps are cut by whoever drives the stage, and
            all stages of a pipeline alike.
    """

    chunk: int

    def buffers(self, rows: int, length: int, positions: int = 1) -> Mapping[str, Tensor]:
        """Where to put what the stage receives: contiguous, on its device.

        Args:
            rows: how many rows.
            length: how many tokens a row has.
            positions: how many logits a row wants.

        Returns:
            The tensors as `recv.S.NAME`, S the stage that sends; in the order in which that stage sends them.
        """
        ...

    def step(self, rows: slice, step: Step, received: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Run the stage over the next tokens of some rows, and update their caches.

        Args:
            rows: which rows of the batch.
            step: what is to be done with them; the tensors hold these rows only.
            received: what `buffers` gave, filled.

        Returns:
            What goes to other stages, as `send.S.NAME` in the order of sending; and of the last stage `logits`, as
            `[rows, R, vocabulary]`. The memory may be used again by the next step.
        """
        ...

    def copy_rows(self, copies: RowCopies) -> None:
        """Copy rows of the stage's caches; see `Session.copy_rows`."""
        ...


class StageExecutor(Protocol):
    """A loaded stage."""

    name: str
    """How messages call the executor: `torch`."""

    def open_stage(self, batch: int, capacity: int) -> StageSession:
        """See `Executor.open`."""
        ...


class RankExecutor(Executor, StageExecutor, Protocol):
    """A loaded rank: a whole model, or a stage."""


class RowCopies(NamedTuple):
    """Rows of a batch, or blocks of pools, that are copied, all at once.

    Attributes:
        sources: the rows.
        destinations: for each of them the row, another one, that becomes what it is; each is there once.
    """

    sources: list[int]
    destinations: list[int]

    @classmethod
    def checked(cls, sources: Sequence[int], destinations: Sequence[int], count: int, what: str = "row") -> RowCopies:
        """Those of the copies among `count` rows that change something; `what` is what messages call a row.

        Raises:
            RequestError: if there are not as many sources as destinations, there is no such row, or a destination is
                named twice.
        """
        if len(sources) != len(destinations):
            raise RequestError(
                f"{len(sources)} {what}s were to be copied to {len(destinations)}",
                hint="give each source its destination",
            )
        for row in (*sources, *destinations):
            if not 0 <= row < count:
                raise RequestError(f"there is no {what} {row} to copy; the session's {what}s are 0 to {count - 1}")
        if len(set(destinations)) < len(destinations):
            twice = next(row for at, row in enumerate(destinations) if row in destinations[:at])
            raise RequestError(
                f"{what} {twice} was to become a copy of two {what}s",
                hint="name each destination once, with one source",
            )
        moving = [(source, to) for source, to in zip(sources, destinations, strict=True) if source != to]
        return cls([source for source, _ in moving], [to for _, to in moving])

    def apply(self, layout: CacheLayout, caches: Iterable[Tensor], length: int | None = None) -> None:
        """Copy the rows of caches, in place; the arguments are those of `CacheLayout.copy_rows`.

        Raises:
            RequestError: if there is no memory for the copied rows of one cache.
        """
        with memory_for(f"a copy of {len(self.sources)} rows of a cache"):
            layout.copy_rows(caches, self.sources, self.destinations, length)


class KernelTime(NamedTuple):
    """How long ops of one form have taken.

    Attributes:
        kernel: the kernel, with the columns of its operands.
        ops: how many such ops a step has.
        seconds: what all of them together have taken, in all steps.
    """

    kernel: str
    ops: int
    seconds: float


@runtime_checkable
class MeasuresKernels(Protocol):
    """An executor that can say how long its kernels take."""

    def measure(self) -> None:
        """Measure from now on how long kernels take."""
        ...

    def times(self) -> Sequence[KernelTime]:
        """What kernels have taken since `measure` was called, the longest first."""
        ...


S = TypeVar("S", bound=StageSession)


class WholeSession(Generic[S]):
    """Sequences in progress on a stage that is a whole model. See `Session`.

    Steps that are too long for the stage run in chunks.

    Attributes:
        stage: what runs them.
    """

    def __init__(self, stage: S, batch: int, capacity: int) -> None:
        self.stage, self.batch, self.capacity = stage, batch, capacity

    def step(self, step: Step, first_row: int = 0) -> Tensor:
        """See `Session.step`; raises as the stage's does."""
        rows = slice(first_row, first_row + step.batch)
        return in_chunks(step, self.stage.chunk, lambda chunk: self.stage.step(rows, chunk, {})[LOGITS])

    def copy_rows(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """See `Session.copy_rows`."""
        copies = RowCopies.checked(sources, destinations, self.batch)
        if copies.sources:
            self.stage.copy_rows(copies)


@dataclass(frozen=True)
class PlanSize:
    """What steps a TensorRT plan is for.

    Attributes:
        name: the plan's name.
        rows: the most rows that it runs one token of; 0 for a plan that does not.
        width: the most tokens of a row that it runs.
        capacity: how many tokens the caches of a row hold.
    """

    name: str
    rows: int
    width: int
    capacity: int


@runtime_checkable
class PlannedExecutor(Protocol):
    """An executor that runs plans, if there are some; each can be tried by itself."""

    @property
    def plan_sizes(self) -> Sequence[PlanSize]:
        """The plans; none if it runs something else."""
        ...

    def limited_to(self, names: Collection[str]) -> Executor:
        """An executor that has only the plans of these names, and shares all else with this one."""
        ...
