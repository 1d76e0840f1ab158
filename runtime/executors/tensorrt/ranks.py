"""How the collectives of plans reach the other ranks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from compiler.errors import TargetError
from compiler.trt_network.record import NetworkRecord
from runtime.collectives.communicator import Communicator


def check_group(record: NetworkRecord, size: int) -> None:
    """TargetError if a plan has a collective that is not for `size` ranks."""
    for layer in record.layers:
        if layer.kind == "DIST_COLLECTIVE" and layer.params["num_ranks"] != size:
            raise TargetError(
                f"{layer.name} of the engine is computed by {layer.params['num_ranks']} ranks together; "
                f"this rank has {size - 1} others to compute with",
                hint="run the engine on as many ranks as it was compiled for: llmc run ENGINE starts them",
            )


def nccl_capsule(group: Communicator) -> Any:
    """The group's communicator as TensorRT takes it; None for a rank alone.

    Raises:
        TargetError: if the ranks do not exchange tensors by NCCL.
    """
    if group.size == 1:
        return None
    if not hasattr(group, "capsule"):
        raise TargetError(
            f"TensorRT engines compute together by NCCL, not by {type(group).__name__}",
            hint="give each rank a GPU and an NcclCommunicator, or run the ranks with --executor emulator",
        )
    return group.capsule()


class EmulatedRanks:
    """A group of ranks, as the emulator calls it. See `compiler.trt_emulator.table.Communicator`."""

    def __init__(self, group: Communicator) -> None:
        """Call `group`."""
        self._group = group
        self.size = group.size

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks; the tensor stays as it is."""
        return self._group.all_reduce(tensor.clone())

    def all_max(self, tensor: Tensor) -> Tensor:
        """The largest over the ranks; the tensor stays as it is."""
        return self._group.all_max(tensor.clone())

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The tensors of the ranks along dimension 0."""
        return self._group.all_gather(tensor, 0)
