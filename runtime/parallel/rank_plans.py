"""The plans of all ranks: every rank has plans of its own, of the same names where they are for the same steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from runtime.executor import Executor, PlannedExecutor, PlanSize

if TYPE_CHECKING:
    from runtime.parallel.mpi_communicator import MpiCommunicator


@dataclass(frozen=True)
class RankPlans:
    """Which plans the ranks have.

    Attributes:
        sizes: the plans, each once, in the order of the first rank that has it.
        ranks: for each of them the ranks that have it.
    """

    sizes: tuple[PlanSize, ...] = ()
    ranks: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def gathered(cls, local: Executor, comm: MpiCommunicator) -> RankPlans:
        """Those of all ranks. Every rank calls it with its own executor."""
        own = [asdict(size) for size in local.plan_sizes] if isinstance(local, PlannedExecutor) else []
        return cls.of([[PlanSize(**size) for size in sizes] for sizes in comm.all_gather_object(own)])

    @classmethod
    def of(cls, by_rank: Sequence[Sequence[PlanSize]]) -> RankPlans:
        """Put those of each rank together. What a stage does not see, such as tokens, does not limit its plans."""
        found: dict[str, PlanSize] = {}
        ranks: dict[str, tuple[int, ...]] = {}
        for rank, sizes in enumerate(by_rank):
            for size in sizes:
                known = found.setdefault(size.name, size)
                found[size.name] = replace(
                    known,
                    rows=min(known.rows, size.rows),
                    width=min(known.width, size.width),
                    capacity=min(known.capacity, size.capacity),
                )
                ranks[size.name] = (*ranks.get(size.name, ()), rank)
        return cls(tuple(found.values()), tuple(ranks.values()))

    def numbers(self, names: Sequence[str]) -> list[int]:
        """The places of plans among all."""
        places = {size.name: place for place, size in enumerate(self.sizes)}
        return [places[name] for name in names]

    def limited(self, local: Executor, numbers: Sequence[int]) -> Executor:
        """A rank's executor with those plans only; a rank that lacks one of them runs on what it chooses."""
        names = [self.sizes[number].name for number in numbers]
        if not names or not isinstance(local, PlannedExecutor):
            return local
        own = {size.name for size in local.plan_sizes}
        return local.limited_to(names) if own.issuperset(names) else local
