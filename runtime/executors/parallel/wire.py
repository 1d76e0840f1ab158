"""What rank 0 tells the others to do, in packed 32-bit integers: one broadcast for a step of decoding."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from runtime.collectives.mpi_communicator import MpiCommunicator

if TYPE_CHECKING:
    from collections.abc import Sequence

Ints = npt.NDArray[np.int32]

# A message of up to so many numbers is one broadcast, a longer one two.
_FIRST = 1024
_HEAD = 2


class Kind(IntEnum):
    """What is to be done: its numbers in brackets."""

    STOP = 0
    """End. []"""
    OPEN = 1
    """Open a session. [number of the session, batch, capacity, whether logits are shown, the plans to run on]"""
    CLOSE = 2
    """Forget a session. [number]"""
    STEP = 3
    """Run a step. [number of the session, its first row, then the step as `compiler.ir.step.Step.packed` gives it]"""
    PLANS = 4
    """Say which plans there are. []"""
    COPY = 5
    """Copy rows of the caches. [number of the session, the sources, as many destinations]"""
    OPEN_PAGED = 6
    """Open a paged session. [number of the session, how many blocks, whether steps begin ahead of their tokens]"""
    PACKED_STEP = 7
    """Run a packed step. [number of the session, then the step as `PackedStep.packed` gives it]"""
    COPY_BLOCKS = 8
    """Copy blocks of the pools. [number of the session, the sources, as many destinations]"""
    BLOCK_MEMORY = 9
    """Say what memory there is for blocks. []"""
    STEP_AHEAD = 10
    """Begin a packed step whose tokens may not be known. [as of PACKED_STEP]"""
    PREPARE = 11
    """Prepare steps. [number of the session, then what `Prepares.due` gave]"""


class Channel:
    """Messages from rank 0 to all others."""

    def __init__(self, comm: MpiCommunicator) -> None:
        self._comm = comm
        self._first = np.zeros(_FIRST, dtype=np.int32)

    def post(self, kind: Kind, *parts: Sequence[int] | Ints) -> None:
        """Rank 0: tell the others."""
        at = _HEAD
        if sum(map(len, parts)) <= _FIRST - _HEAD:
            for part in parts:
                self._first[at : at + len(part)] = part
                at += len(part)
            self._first[:_HEAD] = kind, at - _HEAD
            self._comm.post(self._first)
            return
        rest = np.concatenate([np.asarray(part, dtype=np.int32) for part in parts])
        self._first[:_HEAD] = kind, len(rest)
        self._comm.post(self._first)
        self._comm.post(rest)

    def take(self) -> tuple[Kind, Ints]:
        """Other ranks: wait for a message; the numbers are good until the next call."""
        self._comm.take(self._first)
        kind, length = Kind(self._first[0]), int(self._first[1])
        if length <= _FIRST - _HEAD:
            return kind, self._first[_HEAD : _HEAD + length]
        rest = np.zeros(length, dtype=np.int32)
        self._comm.take(rest)
        return kind, rest
