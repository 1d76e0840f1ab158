"""Checks before anything runs: the ranks must be those that the engine is for, with the same engine and llmc."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from compiler.errors import EngineError, TargetError
from compiler.ir.mesh import Mesh
from runtime.collectives.failure import SharedFailure
from runtime.processes.world import LOADING_SECONDS, World

Facts = Mapping[str, str]
"""What must be the same on all ranks, by the name that messages give it, such as `engine`."""

_SAME = "give all hosts the same llmc, engine and plug-ins: copy them again, or share their folders"


def check_world_size(size: int, mesh: Mesh, path: Path | str) -> None:
    """See that there are as many ranks as the engine is for.

    Raises:
        EngineError: if not, saying how to start it.
    """
    if size != mesh.size:
        raise EngineError(
            f"{path} is an engine of {mesh.size} rank{'s' * (mesh.size != 1)} ({mesh}), but mpirun started {size}",
            hint=f"start it with mpirun -n {mesh.size}, or leave mpirun out: llmc starts the ranks itself",
        )


def check_agreement(world: World, facts: Callable[[], Facts], *, hint: str = _SAME) -> None:
    """See that all ranks have the same facts. Every rank calls it.

    Args:
        world: the ranks.
        facts: what gives this rank's facts; the errors that it raises are raised as `World.on_all_ranks` does.
        hint: the mend.

    Raises:
        EngineError: on rank 0, naming the first rank that has others than rank 0.
        SharedFailure: on the other ranks, in that case.
    """
    own = world.on_all_ranks("the checks of the engine", lambda: dict(facts()), limit=LOADING_SECONDS)
    every = world.comm.all_gather_object(own)
    for rank, others in enumerate(every):
        for name, value in every[0].items():
            if others.get(name) != value:
                if world.rank:
                    raise SharedFailure(name)
                raise EngineError(
                    f"rank {rank} on {world.hosts[rank]} has another {name} than rank 0 on {world.hosts[0]}: "
                    f"{_short(others.get(name))}, not {_short(value)}",
                    hint=hint,
                )


def device_of_rank(world: World, device: str, *, gpus: int) -> str:
    """The device that a rank uses: the GPU whose number is the rank's among the ranks of its host.

    Args:
        world: the ranks.
        device: what the user asked for: `auto`, `cpu`, `cuda` or `cuda:N`.
        gpus: how many GPUs this host has.

    Returns:
        `cpu` or `cuda:N`.

    Raises:
        TargetError: if there is no GPU for this rank, or all ranks are to use one.
    """
    if device == "cpu" or (device == "auto" and not gpus):
        return "cpu"
    if device not in ("auto", "cuda"):
        raise TargetError(
            f"{device} is one device for {world.size} ranks",
            hint="use --device cuda, and CUDA_VISIBLE_DEVICES to choose the GPUs",
        )
    if world.local_rank >= gpus:
        has = f"{gpus} GPU{'' if gpus == 1 else 's'}"
        raise TargetError(
            f"this is rank {world.local_rank + 1} of its host, which has {has} for its ranks",
            hint="start fewer ranks on this host (slots=N in the hostfile), or run with --device cpu",
        )
    return f"cuda:{world.local_rank}"


def _short(value: str | None) -> str:
    """A digest's beginning; other texts whole."""
    text = str(value)
    return f"{text[:16]}..." if len(text) > 40 and text.isalnum() else text
