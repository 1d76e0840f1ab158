"""Memory of each rank's GPU that the GPUs of the other ranks read and write, by CUDA's IPC."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from runtime.collectives.mpi_communicator import MpiCommunicator

_HANDLE_BYTES = 64
_LAZY_PEER_ACCESS = 1


class _Handle(ctypes.Structure):
    """`CUipcMemHandle`."""

    _fields_ = (("reserved", ctypes.c_byte * _HANDLE_BYTES),)


class CudaDriver:
    """The calls of CUDA's driver that share memory. They raise OSError where the driver reports an error."""

    def __init__(self, library: Any) -> None:
        """Take the loaded driver, `libcuda.so.1`."""
        self._library = library

    @classmethod
    def load(cls) -> CudaDriver:
        """The driver of this machine; OSError if there is none."""
        return cls(ctypes.CDLL("libcuda.so.1"))

    def allocate(self, nbytes: int) -> int:
        """The address of new memory on the current device, filled with zeros."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(nbytes))
        self._call("cuMemsetD8_v2", address, ctypes.c_ubyte(0), ctypes.c_size_t(nbytes))
        return address.value

    def free(self, address: int) -> None:
        """Give memory back that `allocate` gave."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def handle(self, address: int) -> bytes:
        """What another process opens memory by."""
        handle = _Handle()
        self._call("cuIpcGetMemHandle", ctypes.byref(handle), ctypes.c_uint64(address))
        return bytes(handle)

    def open(self, handle: bytes) -> int:
        """The address, on the current device, of memory of another process's GPU."""
        address = ctypes.c_uint64()
        given = _Handle.from_buffer_copy(handle)
        self._call("cuIpcOpenMemHandle_v2", ctypes.byref(address), given, ctypes.c_uint(_LAZY_PEER_ACCESS))
        return address.value

    def close(self, address: int) -> None:
        """Let go of memory that `open` gave."""
        self._call("cuIpcCloseMemHandle", ctypes.c_uint64(address))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise OSError(f"{name} failed with the CUDA error {code}")


class PeerMemory:
    """A piece of memory on the GPU of each rank of a group, all of which each rank can address.

    Attributes:
        rank: this rank's number.
        size: how many ranks there are.
        addresses: where the pieces are, by rank, `i64[size]` on this rank's GPU.
    """

    def __init__(self, rank: int, addresses: Tensor, close: Callable[[], None] = lambda: None) -> None:
        """Take pieces that are open; `close` gives them back."""
        self.rank, self.size, self.addresses = rank, addresses.numel(), addresses
        self.close = close

    @classmethod
    def over(cls, group: MpiCommunicator, device: torch.device, nbytes: int) -> PeerMemory | None:
        """Open a piece of so many bytes on each rank, filled with zeros. All ranks call it, and get the same answer.

        Returns:
            The memory; None if a rank cannot address that of another one: it is on another host, say, or the GPUs
            are not connected.
        """
        pieces = Pieces()
        with torch.cuda.device(device):
            torch.empty(1, device=device)  # so that the device's context is there, and current
            own = pieces.allocate(nbytes)
            shared = group.all_gather_object([platform.node(), own.hex() if own else None])
            opened = [pieces.open(host, handle, rank == group.rank) for rank, (host, handle) in enumerate(shared)]
            if not all(group.all_gather_object(all(opened))):
                pieces.close()
                return None
            addresses = torch.tensor(opened, dtype=torch.int64, device=device)
        return cls(group.rank, addresses, pieces.close)


class Pieces:
    """The memory that this rank has allocated and opened, as far as the driver lets it."""

    def __init__(self) -> None:
        self._own = 0
        self._opened: list[int] = []
        try:
            self._driver: CudaDriver | None = CudaDriver.load()
        except OSError:
            self._driver = None

    def allocate(self, nbytes: int) -> bytes | None:
        """The handle of this rank's piece; None if it cannot be shared."""
        if self._driver is None:
            return None
        try:
            self._own = self._driver.allocate(nbytes)
            return self._driver.handle(self._own)
        except (OSError, AttributeError):
            return None

    def open(self, host: str, handle: str | None, own: bool) -> int:
        """The address of a piece; 0 if there is none for this rank."""
        if self._driver is None or handle is None or host != platform.node():
            return 0
        if own:
            return self._own
        try:
            address = self._driver.open(bytes.fromhex(handle))
        except OSError:
            return 0
        self._opened.append(address)
        return address

    def close(self) -> None:
        """Give everything back. No rank may use it any more."""
        if self._driver is None:
            return
        for address in self._opened:
            self._driver.close(address)
        if self._own:
            self._driver.free(self._own)
        self._opened, self._own = [], 0
