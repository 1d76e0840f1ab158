"""The plans of all ranks: every rank has plans of its own, of the same names where they are for the same steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from runtime.executors.interface import Executor, PlannedExecutor, PlanSize

if TYPE_CHECKING:
    from runtime.collectives.mpi_communicator import MpiCommunicator


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
        """A rank's executor with those plans only.

        In the place of a plan that the rank lacks it has those of its own for the same caches, and for single tokens or
        prompts as that plan is; if there are none, all of its plans.
        """
        if not numbers or not isinstance(local, PlannedExecutor):
            return local
        names = {size.name for size in local.plan_sizes}
        own = [size for size in self.sizes if size.name in names]
        chosen = []
        for wanted in (self.sizes[number] for number in numbers):
            alike = [size for size in own if size.capacity == wanted.capacity and (size.rows > 0) == (wanted.rows > 0)]
            found = [wanted] if wanted in own else alike
            if not found:
                return local
            chosen += [size.name for size in found]
        return local.limited_to(chosen)
