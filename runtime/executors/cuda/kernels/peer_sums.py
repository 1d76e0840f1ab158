"""Sums over the ranks of a host in one kernel: each writes what it has into the memory of all the others.

For the few tokens of a decode step, most of the time of an all-reduce goes by in waiting, which one exchange halves
(the "one-shot" all-reduce of TensorRT-LLM and vLLM). A program adds up its elements of the parts that this rank has,
writes them to its place in the memory of every rank, says so there by a flag, waits for the flags of the others, and
adds up what they have written: in the order of the ranks, so that all get the same bits.

The memory of a rank is flags, `i32[ranks, MOST_PROGRAMS]`, and then two turns of values, `[2, ranks, MOST_ELEMENTS]`. A
flag is the number of the exchange, which counts up, for each program, from 1. Exchanges take the turns alternately: a
rank that writes a turn anew has had the flag of the exchange between, which its peer set when it was through with
the turn before.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from runtime.collectives.peer_memory import PeerMemory
from runtime.executors.cuda.kernels.dependent import launch_options, wait_for_kernel_before

ELEMENTS = 1024
"""Elements of a program, whatever is summed: so no two programs ever use the same place."""
MOST_PROGRAMS = 256
MOST_ELEMENTS = ELEMENTS * MOST_PROGRAMS
_VALUE_BYTES = 4


def peer_bytes(ranks: int) -> int:
    """How many bytes of memory each rank needs."""
    return 4 * ranks * MOST_PROGRAMS + 2 * ranks * MOST_ELEMENTS * _VALUE_BYTES


class PeerSums:
    """Sums over the ranks of a group; all of them compute the same ones in the same order."""

    def __init__(self, memory: PeerMemory) -> None:
        """Take memory of `peer_bytes` on each rank, filled with zeros."""
        self._memory = memory
        self._counts = torch.zeros(MOST_PROGRAMS, dtype=torch.int32, device=memory.addresses.device)

    @staticmethod
    def takes(count: int) -> bool:
        """Whether so many elements can be summed."""
        return 0 < count <= MOST_ELEMENTS

    def __call__(self, parts: Tensor, dtype: torch.dtype) -> Tensor:
        """The sum over the ranks of the sums of their parts.

        Args:
            parts: `[S, ...]`, contiguous; the sum over S is rounded to the type of the result before it is sent.
            dtype: the type of the result, of at most 4 bytes.

        Returns:
            The sum, of the shape of a part, the same bits on every rank.
        """
        memory, count = self._memory, parts[0].numel()
        total = torch.empty(parts.shape[1:], dtype=dtype, device=parts.device)
        with torch.cuda.device_of(parts):
            _exchange[(triton.cdiv(count, ELEMENTS),)](
                parts, total, memory.addresses, self._counts, count,
                S=len(parts), RANKS=memory.size, RANK=memory.rank, FLAGS=memory.size * MOST_PROGRAMS,
                PROGRAMS=MOST_PROGRAMS, MOST=MOST_ELEMENTS, BN=ELEMENTS, **launch_options(parts.device),
            )  # fmt: skip
        return total


@triton.jit
def _exchange(
    parts, total, addresses, counts, N,
    S: tl.constexpr, RANKS: tl.constexpr, RANK: tl.constexpr, FLAGS: tl.constexpr, PROGRAMS: tl.constexpr,
    MOST: tl.constexpr, BN: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The sum of `parts [S, N]`, over all ranks, to `total [N]`."""
    wait_for_kernel_before(EARLY)
    program = tl.program_id(0)
    count = tl.load(counts + program) + 1
    n = program * BN + tl.arange(0, BN)
    mask = n < N
    value = tl.load(parts + n, mask=mask, other=0.0).to(tl.float32)
    for part in tl.static_range(1, S):
        value += tl.load(parts + part * N + n, mask=mask, other=0.0).to(tl.float32)
    value = value.to(total.dtype.element_ty)
    turn = (count & 1) * RANKS
    for rank in tl.static_range(RANKS):
        tl.store(_values(addresses, rank, total, FLAGS) + (turn + RANK) * MOST + n, value, mask=mask)
    tl.debug_barrier()  # all threads have written before one says so
    for rank in tl.static_range(RANKS):
        if rank != RANK:
            tl.atomic_xchg(_flags(addresses, rank) + RANK * PROGRAMS + program, count, sem="release", scope="sys")
    for rank in tl.static_range(RANKS):
        if rank != RANK:
            flag = _flags(addresses, RANK) + rank * PROGRAMS + program
            while tl.atomic_add(flag, 0, sem="acquire", scope="sys") - count < 0:
                pass
    tl.debug_barrier()  # one thread has seen the flags, on behalf of all
    values = _values(addresses, RANK, total, FLAGS) + turn * MOST + n
    result = tl.zeros((BN,), tl.float32)
    for rank in tl.static_range(RANKS):
        result += tl.load(values + rank * MOST, mask=mask, other=0.0, volatile=True).to(tl.float32)
    tl.store(total + n, result.to(total.dtype.element_ty), mask=mask)
    tl.store(counts + program, count)


@triton.jit
def _flags(addresses, rank):
    """The flags of a rank."""
    return tl.load(addresses + rank).to(tl.pointer_type(tl.int32))


@triton.jit
def _values(addresses, rank, like, FLAGS: tl.constexpr):
    """The values of a rank, of the type of `like`."""
    return (tl.load(addresses + rank) + 4 * FLAGS).to(tl.pointer_type(like.dtype.element_ty))
