"""Ranks that exchange CUDA tensors by NCCL, on torch's current stream."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compiler.errors import TargetError
from runtime.collectives.communicator import joined
from runtime.collectives.mpi_communicator import MpiCommunicator
from runtime.collectives.nccl_library import DTYPES, MAX, SUM, Nccl, load_nccl
from runtime.collectives.peer_memory import PeerMemory


class NcclCommunicator:
    """See `runtime.collectives.communicator.Communicator`. Everything can be captured in a CUDA graph but `barrier`.

    An operation is put on the stream; the call does not wait for it.
    """

    def __init__(self, nccl: Nccl, group: MpiCommunicator, device: torch.device) -> None:
        """Join the ranks of `group` on their GPUs; each has its own. Waits for them.

        Raises:
            TargetError: if NCCL fails.
        """
        self.rank, self.size, self.device = group.rank, group.size, device
        self._nccl, self._group = nccl, group
        identity = bytes.fromhex(group.broadcast_object(nccl.unique_id().hex() if group.rank == 0 else None))
        with torch.cuda.device(device):
            self._comm = nccl.init_rank(group.size, identity, group.rank)

    @classmethod
    def over(cls, device: torch.device) -> Callable[[MpiCommunicator], NcclCommunicator]:
        """What makes an NCCL communicator of an MPI one, for `form_groups`. TargetError if there is no NCCL."""
        nccl = load_nccl()
        return lambda group: cls(nccl, group, device)

    def capsule(self) -> Any:
        """The `ncclComm_t` as TensorRT's `IExecutionContext.set_communicator` takes it: a capsule without a name."""
        make = ctypes.pythonapi.PyCapsule_New
        make.argtypes, make.restype = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p], ctypes.py_object
        return make(self._comm, None, None)

    def peer_memory(self, nbytes: int) -> PeerMemory | None:
        """Memory that the GPUs of the group share; see `PeerMemory.over`. All ranks call it."""
        return PeerMemory.over(self._group, self.device, nbytes)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """See `Communicator.all_reduce`."""
        return self._reduced(tensor, SUM)

    def all_max(self, tensor: Tensor) -> Tensor:
        """See `Communicator.all_max`."""
        return self._reduced(tensor, MAX)

    def all_gather(self, tensor: Tensor, axis: int) -> Tensor:
        """See `Communicator.all_gather`."""
        data = tensor.contiguous()
        result = torch.empty((self.size, *data.shape), dtype=data.dtype, device=data.device)
        self._call("ncclAllGather", data.data_ptr(), result.data_ptr(), data.numel(), _dtype(data))
        return joined(result, axis)

    def broadcast(self, tensor: Tensor, root: int) -> Tensor:
        """See `Communicator.broadcast`."""
        data = tensor.contiguous()
        self._call("ncclBroadcast", data.data_ptr(), data.data_ptr(), data.numel(), _dtype(data), root)
        return tensor if data is tensor else tensor.copy_(data)

    def send(self, tensor: Tensor, to: int) -> None:
        """See `Communicator.send`. Later work on the stream may overwrite the memory."""
        data = tensor.contiguous()
        self._call("ncclSend", data.data_ptr(), data.numel(), _dtype(data), to)

    def recv(self, tensor: Tensor, source: int) -> Tensor:
        """See `Communicator.recv`."""
        self._call("ncclRecv", tensor.data_ptr(), tensor.numel(), _dtype(tensor), source)
        return tensor

    def barrier(self) -> None:
        """See `Communicator.barrier`: waits for this GPU, then for the ranks."""
        torch.cuda.synchronize(self.device)
        self._group.barrier()

    def close(self) -> None:
        """Give NCCL's memory back. Nothing may be under way."""
        self._nccl.call("ncclCommDestroy", self._comm)

    def _reduced(self, tensor: Tensor, operation: int) -> Tensor:
        data = tensor.contiguous()
        self._call("ncclAllReduce", data.data_ptr(), data.data_ptr(), data.numel(), _dtype(data), operation)
        return tensor if data is tensor else tensor.copy_(data)

    def _call(self, name: str, *arguments: int) -> None:
        self._nccl.call(name, *arguments, self._comm, torch.cuda.current_stream(self.device).cuda_stream)


def _dtype(tensor: Tensor) -> int:
    if tensor.dtype not in DTYPES:
        raise TargetError(f"NCCL has no type for {tensor.dtype}", hint="exchange it in another type")
    return DTYPES[tensor.dtype]
