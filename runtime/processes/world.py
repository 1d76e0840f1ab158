"""The ranks of a run: joining them, doing something together, and leaving."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, TypeVar

from compiler.errors import TargetError
from runtime.collectives.failure import STATUS_ERROR, Failure, SharedFailure
from runtime.collectives.mpi_communicator import MpiCommunicator
from runtime.collectives.mpi_library import is_mpi_error, start_mpi, stop_mpi
from runtime.collectives.rank_status import StatusRecorder
from runtime.processes.environment import rank_from_environment, timeout_from_environment, world_size_from_environment
from runtime.processes.liveness import GRACE, LivenessMonitor

T = TypeVar("T")

LOADING_SECONDS = 1800.0
"""How much longer than others a rank may load: one disk is slower, or one host has the files cached."""

_JOIN_SECONDS = 60.0


class World:
    """All ranks of a run, seen from one of them. A context manager, to be entered by every rank.

    An exception that leaves it on rank 0 ends the other ranks, and goes on to who reports it. One that leaves it on
    another rank ends all ranks; rank 0 prints it.

    Attributes:
        comm: the ranks.
        activity: what this rank is doing.
        hosts: the host of each rank.
    """

    def __init__(
        self, comm: MpiCommunicator, activity: StatusRecorder, hosts: list[str], monitor: LivenessMonitor
    ) -> None:
        self.comm, self.activity, self.hosts, self._monitor = comm, activity, hosts, monitor

    @property
    def rank(self) -> int:
        """This rank's number."""
        return self.comm.rank

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self.comm.size

    @property
    def local_rank(self) -> int:
        """This rank's number among those of its host: which GPU is its."""
        return self.hosts[: self.rank].count(self.hosts[self.rank])

    def on_all_ranks(self, what: str, action: Callable[[], T], *, limit: float | None = None) -> T:
        """Do something on every rank; no rank goes on unless all succeeded.

        Args:
            what: how messages call it.
            action: what to do; it must not wait for a rank that may fail.
            limit: how many seconds longer than others a rank may take; the time-out of `join` if None.

        Raises:
            LlmcError: on rank 0, the error of the first rank that had one, which its message names.
            SharedFailure: on the other ranks, in that case.
        """
        result, failure = None, None
        with self.activity.busy(what, limit):
            try:
                result = action()
            except Exception as error:  # noqa: BLE001 - it is raised below, on rank 0
                failure = Failure.of(error, self.rank, self.hosts[self.rank])
            outcomes = self.comm.all_gather_object(failure and failure.to_json())
        failed = next((Failure(**outcome) for outcome in outcomes if outcome), None)
        if failed and self.rank:
            raise SharedFailure(failed.headline)
        if failed:
            raise failed.error()
        return result  # type: ignore[return-value]

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.comm.barrier()
            self._monitor.leave()
            stop_mpi()
        elif self.rank == 0:
            self._fail_first(error)
        elif isinstance(error, SharedFailure):
            self._monitor.wait_for_end()
        else:
            self._fail(error)

    def _fail_first(self, error: BaseException) -> None:
        if is_mpi_error(error):
            self._fail(error)
        self._monitor.stand_down()

    def _fail(self, error: BaseException) -> NoReturn:
        if is_mpi_error(error):
            # Most likely another rank died, of which mpirun or the liveness monitor will tell.
            threading.Event().wait(2 * GRACE)
        self._monitor.fail(Failure.of(error, self.rank, self.hosts[self.rank]))


def join(timeout: float | None = None) -> World:
    """Join the ranks that mpirun started. Every rank calls it, once, in its main thread.

    What ranks other than 0 print goes to standard error: standard output is rank 0's.

    Args:
        timeout: how many seconds a rank may keep the others waiting; `LLMC_RANK_TIMEOUT` or a minute if None.

    Raises:
        TargetError: if there is no MPI, or this process was not started by mpirun.
    """
    expected = world_size_from_environment()
    if expected is None:
        raise TargetError("this process was not started by mpirun", hint="mpirun -n RANKS llmc run ENGINE")
    seconds = timeout or timeout_from_environment()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # so mpirun ends a rank that is inside MPI
    if rank_from_environment():
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    timer = threading.Timer(_JOIN_SECONDS + GRACE * rank_from_environment(), _give_up)
    timer.daemon = True
    timer.start()
    activity = StatusRecorder(seconds)
    comm = MpiCommunicator(start_mpi(), activity)
    if comm.size != expected:
        raise TargetError(
            f"mpirun started {expected} ranks, but this process sees {comm.size}: mpirun and mpi4py are of two MPIs",
            hint="use the mpirun beside the python that runs llmc",
        )
    hosts = comm.all_gather_object(socket.gethostname())
    monitor = LivenessMonitor(comm.rank, hosts, activity, timeout=seconds)
    address = comm.broadcast_object(monitor.listen() if comm.rank == 0 else None)
    monitor.accept() if comm.rank == 0 else monitor.connect(address)
    timer.cancel()
    return World(comm, activity, hosts, monitor)


def _give_up() -> NoReturn:
    rank = rank_from_environment()
    print(  # noqa: T201 - nobody is left who could raise it
        f"error: rank {rank} on {socket.gethostname()}: the other ranks did not join within {_JOIN_SECONDS:.0f} s\n"
        "hint: see whether every host can run llmc and reach the others (mpirun --hostfile FILE -n RANKS hostname)",
        file=sys.stderr,
        flush=True,
    )
    os._exit(STATUS_ERROR)
