"""How much memory there is for caches, and what is said where a step finds none."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from compiler.errors import RequestError, TargetError, is_out_of_memory
from compiler.sizes import bytes_text

# What the caches may take of the memory that is free; steps and the rest of the system need some, too.
_SHARE = 0.8
_LEFT_ON_GPU = 6 << 30
"""So many bytes of a GPU's memory suffice for steps, whatever its share is."""
_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


class BlockMemory(NamedTuple):
    """What the blocks of a rank's pools take, and of which memory.

    Attributes:
        where: the memory: ranks with the same have to share it.
        free: how many bytes of it are free; None if that is not known.
        bytes: how many bytes a block takes in all pools of the rank.
        left: how many free bytes suffice for all else; None if that is not known.
    """

    where: str
    free: int | None
    bytes: int
    left: int | None = None

    @classmethod
    def on(cls, device: torch.device, bytes: int) -> BlockMemory:
        """A block of so many bytes on a device of this machine."""
        host = socket.gethostname()
        if device.type == "cuda":
            where = f"{host}/{torch.cuda.get_device_properties(device).uuid}"
            return cls(where, free_bytes(device), bytes, _LEFT_ON_GPU)
        return cls(host, _available(), bytes)


def free_bytes(device: torch.device) -> int:
    """How many bytes of a GPU's memory are free, with those that torch keeps for reuse."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def check_pools(blocks: int, block: int, size: int, device: torch.device) -> None:
    """RequestError if a GPU has no room for pools.

    Args:
        blocks: how many blocks they have.
        block: how many tokens a block holds.
        size: how many bytes the pools take.
        device: where they are to be.
    """
    if device.type != "cuda" or size <= (free := free_bytes(device)):
        return
    fitting = free * blocks // size
    raise RequestError(
        f"caches of {blocks * block} tokens take {bytes_text(size)}, but {device} has {bytes_text(free)} free",
        hint=_lower_pools(f" to {fitting * block} or less" if fitting else ""),
    )


def _lower_pools(how_far: str = "") -> str:
    return (
        f"lower --cache-tokens (cache_tokens){how_far}, ask for fewer or shorter texts at a time, or compile the "
        "engine with caches of 8 bits: --passes kv=int8"
    )


def most_blocks(ranks: Iterable[BlockMemory]) -> int | None:
    """How many blocks all ranks have memory for, while something is left for the rest; None if that is not known."""
    usable: dict[str, int] = {}
    taken: dict[str, int] = {}
    for rank in ranks:
        if rank.free is not None:
            most = max(int(_SHARE * rank.free), 0 if rank.left is None else rank.free - rank.left)
            usable[rank.where] = min(most, usable.get(rank.where, most))
            taken[rank.where] = taken.get(rank.where, 0) + rank.bytes
    return min((usable[where] // max(1, taken[where]) for where in usable), default=None)


def _available() -> int | None:
    """How many bytes of memory programs can have, of the machine's and of the container's; None if nothing says so."""
    known = [free for free in (_of_machine(), _of_container()) if free is not None]
    return min(known, default=None)


def _of_machine() -> int | None:
    kilobytes = _number(_MEMINFO, r"^MemAvailable:\s*(\d+) kB$")
    return None if kilobytes is None else kilobytes * 1024


def _of_container() -> int | None:
    """What a control group leaves of its limit, if it has one; files that are held in memory give way."""
    limit, used = _number(_GROUP / "memory.max", r"^(\d+)$"), _number(_GROUP / "memory.current", r"^(\d+)$")
    if limit is None or used is None:
        return None
    return max(0, limit - used + (_number(_GROUP / "memory.stat", r"^file (\d+)$") or 0))


def _number(file: Path, pattern: str) -> int | None:
    """The number in a file of the system, if there is one."""
    try:
        found = re.search(pattern, file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


_FEWER = "ask for shorter prompts, or fewer at a time; the engine may be compiled for fewer: --max-batch"


@contextmanager
def memory_for(what: str, hint: str = _FEWER) -> Iterator[None]:
    """RequestError, instead of torch's or Python's own error, if there is no memory for `what`."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise RequestError(f"there is no memory for {what}: {_reason(error)}", hint=hint) from error


def memory_for_pools(blocks: int, block: int) -> AbstractContextManager[None]:
    """`memory_for` pools of so many blocks of so many tokens."""
    return memory_for(f"pools of {blocks} blocks of {block} tokens", _lower_pools())


@contextmanager
def memory_for_weights(device: torch.device) -> Iterator[None]:
    """TargetError, instead of torch's or Python's own error, if a model's weights do not fit on a device."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise weights_error(device, _reason(error)) from error


def weights_error(device: torch.device, why: str) -> TargetError:
    """The error of weights that do not fit on a device."""
    return TargetError(
        f"the weights do not fit into the memory of {device}: {why}",
        hint="spread the model over more devices (--passes tp=2), store its weights in fewer bits (quant=int8), or "
        "free the memory that other programs hold",
    )


def _reason(error: Exception) -> str:
    """The first line of an error; its kind if it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
