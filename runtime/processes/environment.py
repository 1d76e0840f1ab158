"""What mpirun says to the processes that it starts, read without importing MPI."""

from __future__ import annotations

import os
from collections.abc import MutableMapping, Sequence

TIMEOUT = "LLMC_RANK_TIMEOUT"
"""The variable that says how many seconds a rank may keep the others waiting."""

DEFAULT_TIMEOUT = 60.0

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
_LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")


def world_size_from_environment() -> int | None:
    """How many ranks mpirun started; None if this process was not started by it."""
    return _number(_SIZES)


def rank_from_environment() -> int:
    """The rank of this process; 0 outside mpirun."""
    return _number(_RANKS) or 0


def timeout_from_environment() -> float:
    """How many seconds a rank may keep the others waiting: `LLMC_RANK_TIMEOUT`, else a minute."""
    try:
        seconds = float(os.environ.get(TIMEOUT, ""))
    except ValueError:
        return DEFAULT_TIMEOUT
    return seconds if seconds > 0 else DEFAULT_TIMEOUT


def share_cores(environment: MutableMapping[str, str] | None = None) -> int:
    """Divide the host's cores among its ranks: sets `OMP_NUM_THREADS`, unless it is set. Call it before torch comes.

    Where mpirun bound each rank to cores of its own, those are its share.

    Returns:
        The threads of this rank.
    """
    variables = os.environ if environment is None else environment
    if not variables.get("OMP_NUM_THREADS", "").isdigit():
        cores = len(os.sched_getaffinity(0))
        bound = cores < (os.cpu_count() or cores)
        ranks = 1 if bound else _number(_LOCAL_SIZES) or 1
        variables["OMP_NUM_THREADS"] = str(max(1, cores // ranks))
    return int(variables["OMP_NUM_THREADS"])


def _number(names: Sequence[str]) -> int | None:
    found = (os.environ.get(name, "") for name in names)
    return next((int(text) for text in found if text.isdigit()), None)
