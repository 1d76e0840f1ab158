"""The groups that ranks of a mesh form: rank `stage * tp + place`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runtime.collectives.communicator import Communicator
from runtime.collectives.mpi_communicator import MpiCommunicator

Upgrade = Callable[[MpiCommunicator], Communicator]


@dataclass(frozen=True)
class Groups:
    """A rank's groups.

    Attributes:
        tp: the ranks of its stage, by their places in it.
        pp: the ranks of its place in all stages, by their stages.
    """

    tp: Communicator
    pp: Communicator


def form_groups(comm: MpiCommunicator, *, tp: int, upgrade: Upgrade = lambda group: group) -> Groups:
    """The groups of this rank. All ranks call it.

    Args:
        comm: all ranks, `tp * pp` of them.
        tp: how many ranks a stage has.
        upgrade: what makes a group's communicator of its MPI one: `NcclCommunicator.over(device)` for GPUs.
    """
    stage, place = divmod(comm.rank, tp)
    return Groups(upgrade(comm.split(stage, place)), upgrade(comm.split(place, stage)))
