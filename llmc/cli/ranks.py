"""Commands on engines of several ranks: started once for each rank, by llmc itself or by the user's mpirun."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from llmc.cli.options import settings
from llmc.cli.terminal import attend
from runtime.engine_dir.manifest import read_manifest
from runtime.load.ignored_options import Case
from runtime.load.ranks import run_on_ranks
from runtime.processes.environment import world_size_from_environment
from runtime.processes.launch import launch
from runtime.processes.streams import TERMINAL

if TYPE_CHECKING:
    from runtime.generation.engine import Engine


def needs_ranks(engine: Path) -> bool:
    """Whether a command on an engine takes several processes; EngineError if there is no engine."""
    return _ranks(engine) > 1 or (world_size_from_environment() or 1) > 1


def on_ranks(
    engine: Path,
    action: Callable[[Engine], None],
    *,
    hostfile: Path | None = None,
    stdin: bytes | None = None,
    interactive: bool = False,
    **how: Any,
) -> None:
    """Do something with an engine of several ranks, on rank 0.

    Outside mpirun the command line is run again, on every rank, and its exit status is that of this process.

    Args:
        engine: the engine.
        action: what to do.
        hostfile: the hosts of the ranks; this one if None.
        stdin: what standard input held, if it was read.
        interactive: whether rank 0 talks with a person, by `llmc.cli.terminal`.
        how: how to load, as `run_on_ranks` takes it.

    Raises:
        LlmcError: on rank 0, whichever rank failed.
    """
    if world_size_from_environment() is None:
        talk = attend if interactive else None
        raise typer.Exit(launch(settings.arguments, _ranks(engine), hostfile=hostfile, stdin=stdin, talk=talk))
    run_on_ranks(engine, action, **how)


def hosts_chosen(hostfile: Path | None) -> Case:
    """The option --hostfile, where the user's own mpirun has started the ranks."""
    users = world_size_from_environment() is not None and TERMINAL not in os.environ
    return Case(users, "your own mpirun chooses the hosts", {"--hostfile": hostfile is not None})


def _ranks(engine: Path) -> int:
    return read_manifest(engine.expanduser(), verify=False).mesh.size
