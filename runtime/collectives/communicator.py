"""How ranks exchange tensors, whatever carries them."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Communicator(Protocol):
    """A group of ranks, numbered from 0. All of them call the same operation with tensors of one shape and dtype."""

    @property
    def rank(self) -> int:
        """This rank's number in the group."""
        ...

    @property
    def size(self) -> int:
        """How many ranks there are."""
        ...

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, in place, the same bits on every rank; returns the tensor."""
        ...

    def all_max(self, tensor: Tensor) -> Tensor:
        """The largest over the ranks, element by element, in place; returns the tensor."""
        ...

    def all_gather(self, tensor: Tensor, axis: int) -> Tensor:
        """The tensors of the ranks one after the other along `axis`."""
        ...

    def broadcast(self, tensor: Tensor, root: int) -> Tensor:
        """Fill the tensor with that of rank `root`, in place; returns it."""
        ...

    def send(self, tensor: Tensor, to: int) -> None:
        """Send a tensor to a rank, which must `recv` it. Its memory may be used again at once."""
        ...

    def recv(self, tensor: Tensor, source: int) -> Tensor:
        """Fill a contiguous tensor with the next one that rank `source` sends to this one; returns it."""
        ...

    def barrier(self) -> None:
        """Wait for all ranks."""
        ...


def joined(parts: Tensor, axis: int) -> Tensor:
    """The tensors `[ranks, ...]` one after the other along `axis`; without a copy along the first."""
    axis %= parts.dim() - 1
    return parts.movedim(0, axis).flatten(axis, axis + 1)


class SingleRank:
    """The communicator of one rank. See `Communicator`."""

    rank = 0
    size = 1

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def all_max(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def all_gather(self, tensor: Tensor, axis: int) -> Tensor:
        """The tensor itself."""
        return tensor

    def broadcast(self, tensor: Tensor, root: int) -> Tensor:
        """The tensor itself."""
        return tensor

    def send(self, tensor: Tensor, to: int) -> None:
        """There is nobody to send to: ValueError."""
        raise ValueError(f"one rank alone sends a tensor to rank {to}")

    def recv(self, tensor: Tensor, source: int) -> Tensor:
        """There is nobody to send anything: ValueError."""
        raise ValueError(f"one rank alone waits for a tensor of rank {source}")

    def barrier(self) -> None:
        """Nobody has to be waited for."""
