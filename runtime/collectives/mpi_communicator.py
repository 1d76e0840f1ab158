"""Ranks that exchange tensors of the CPU by MPI, as bytes: MPI has no type for 16-bit floats."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from runtime.collectives.rank_status import StatusRecorder

if TYPE_CHECKING:
    from torch import Tensor

Bytes = npt.NDArray[np.uint8]

# Waiting for something to do: look all the time at first, for the next step comes soon, then ever less often.
_SPIN_SECONDS = 0.05
_SLEEP_SECONDS = 0.002


class MpiCommunicator:
    """See `runtime.collectives.communicator.Communicator`. Other ranks get the same bits, whatever MPI does beneath."""

    def __init__(self, comm: Any, activity: StatusRecorder) -> None:
        """Wrap an mpi4py communicator; `activity` is told of every wait."""
        self._comm, self._activity = comm, activity
        self.rank, self.size = int(comm.Get_rank()), int(comm.Get_size())
        self._sending: list[tuple[Any, Bytes]] = []

    def split(self, color: int, key: int) -> MpiCommunicator:
        """The group of the ranks that give the same color, in the order of their keys. All ranks call it."""
        with self._activity.waiting("split"):
            return MpiCommunicator(self._comm.Split(color, key), self._activity)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """See `Communicator.all_reduce`: added in the order of the ranks, 16-bit floats in float32, rounded once."""
        parts = self._gather(tensor, "all_reduce")
        total = _wide(parts[0])
        for part in parts[1:]:
            total = total + part
        return tensor.copy_(total)

    def all_max(self, tensor: Tensor) -> Tensor:
        """See `Communicator.all_max`."""
        return tensor.copy_(self._gather(tensor, "all_max").amax(0))

    def all_gather(self, tensor: Tensor, axis: int) -> Tensor:
        """See `Communicator.all_gather`."""
        from runtime.collectives.communicator import joined

        return joined(self._gather(tensor, "all_gather"), axis)

    def broadcast(self, tensor: Tensor, root: int) -> Tensor:
        """See `Communicator.broadcast`."""
        contiguous = tensor.contiguous()
        with self._activity.waiting("broadcast"):
            self._comm.Bcast(_bytes(contiguous), root)
        return tensor if contiguous is tensor else tensor.copy_(contiguous)

    def send(self, tensor: Tensor, to: int) -> None:
        """See `Communicator.send`: a copy is under way when this returns."""
        self._sending = [(request, data) for request, data in self._sending if not request.Test()]
        data = _bytes(tensor.contiguous()).copy()
        self._sending.append((self._comm.Isend(data, to), data))

    def recv(self, tensor: Tensor, source: int) -> Tensor:
        """See `Communicator.recv`."""
        with self._activity.waiting(f"recv from rank {source} of its group"):
            self._comm.Recv(_bytes(tensor), source)
        return tensor

    def flush(self) -> None:
        """Wait until all that was sent has arrived."""
        with self._activity.waiting("send"):
            for request, _ in self._sending:
                request.Wait()
        self._sending.clear()

    def barrier(self) -> None:
        """See `Communicator.barrier`."""
        self.flush()
        with self._activity.waiting("barrier"):
            self._comm.Barrier()

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        """What rank `root` gives, on every rank: anything that JSON can say."""
        return self._objects(value if self.rank == root else None)[root]

    def all_gather_object(self, value: Any) -> list[Any]:
        """What each rank gives, on every rank: anything that JSON can say."""
        return self._objects(value)

    def post(self, data: npt.NDArray[np.int32]) -> None:
        """Rank 0: give the others, which wait in `take`, an array."""
        with self._activity.waiting("post"):
            self._comm.Ibcast(data, 0).Wait()

    def take(self, data: npt.NDArray[np.int32]) -> None:
        """Other ranks: wait, for as long as it takes, for an array that rank 0 posts."""
        request, started = self._comm.Ibcast(data, 0), time.monotonic()
        while not request.Test():
            if time.monotonic() - started > _SPIN_SECONDS:
                time.sleep(_SLEEP_SECONDS)

    def _gather(self, tensor: Tensor, what: str) -> Tensor:
        """The tensors of all ranks, `[ranks, ...]`."""
        import torch

        result = torch.empty((self.size, *tensor.shape), dtype=tensor.dtype)
        with self._activity.waiting(what):
            self._comm.Allgather(_bytes(tensor.contiguous()), _bytes(result))
        return result

    def _objects(self, value: Any) -> list[Any]:
        own = np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
        lengths = np.zeros(self.size, dtype=np.int64)
        with self._activity.waiting("agreement"):
            self._comm.Allgather(np.array([own.size], dtype=np.int64), lengths)
            padded = np.zeros(int(lengths.max()), dtype=np.uint8)
            padded[: own.size] = own
            rows = np.zeros((self.size, padded.size), dtype=np.uint8)
            self._comm.Allgather(padded, rows)
        return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def _bytes(tensor: Tensor) -> Bytes:
    """The memory of a contiguous tensor of the CPU."""
    import torch

    result: Bytes = tensor.detach().view(-1).view(torch.uint8).numpy()
    return result


def _wide(tensor: Tensor) -> Tensor:
    """The tensor in a type that sums of it are exact enough in."""
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor
