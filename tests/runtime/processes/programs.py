"""What ranks do in tests: `python -m tests.runtime.processes.programs NAME [ARGUMENT ...]` under mpirun."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from compiler.errors import EngineError, LlmcError, RequestError
from compiler.ir.mesh import Mesh
from runtime.processes.agreement import check_agreement, check_world_size
from runtime.processes.streams import standard_input, writes_to_terminal
from runtime.processes.world import World, join


def say(value: object) -> None:
    sys.stdout.write(json.dumps(value))
    sys.stdout.flush()


def hello(world: World) -> None:
    """What rank 0 knows, and gets; what others print is no output."""
    counted = world.comm.all_gather_object(world.rank)
    if world.rank:
        say("of no interest")
    else:
        say({"counted": counted, "terminal": writes_to_terminal(), "stdin": standard_input().decode()})


def fail(world: World, how: str, who: str) -> None:
    """Rank `who` fails while the others wait for it."""
    world.comm.barrier()
    if world.rank == int(who):
        with world.activity.busy("a step"):
            HOW[how]()
    world.comm.barrier()


def raise_error() -> None:
    raise RequestError("the cup is full", hint="drink")


def raise_bug() -> None:
    raise ZeroDivisionError("no such number")


HOW = {
    "raise": raise_error,
    "bug": raise_bug,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "freeze": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hang": lambda: time.sleep(600),
    "exit": lambda: os._exit(0),
}


def cross(world: World) -> None:
    """Two ranks that wait for different things."""
    world.comm.broadcast_object(1, root=0) if world.rank else world.comm.split(0, 0)


def load(world: World, *folders: str) -> None:
    """Rank i loads the engine of its folder; rank 0 says so."""
    folder = Path(folders[world.rank])

    def facts() -> dict[str, str]:
        check_world_size(world.size, Mesh(tp=len(folders)), folder)
        try:
            return {"engine": (folder / "manifest").read_text()}
        except OSError:
            raise EngineError(f"{folder / 'manifest'} is missing", hint="copy it") from None

    check_agreement(world, facts)
    say("loaded") if not world.rank else None


def quiet(world: World) -> None:
    """Rank 0 has nothing to do for longer than the time-out; the others wait for steps."""
    import numpy as np

    if world.rank:
        world.comm.take(np.zeros(1, dtype=np.int32))
    else:
        time.sleep(3.0)
        world.comm.post(np.zeros(1, dtype=np.int32))
        say("rested")


def slow(world: World) -> None:
    """All ranks compute for longer than the time-out, and one may load for longer than the others."""
    with world.activity.busy("a step"):
        time.sleep(2.5)
    world.on_all_ranks("loading", lambda: time.sleep(2.5 * world.rank), limit=60.0)
    say("done") if not world.rank else None


PROGRAMS: dict[str, Callable[..., None]] = {
    "hello": hello,
    "fail": fail,
    "cross": cross,
    "load": load,
    "quiet": quiet,
    "slow": slow,
}


def find(name: str) -> Callable[..., None]:
    if name in PROGRAMS:
        return PROGRAMS[name]
    from tests.runtime.processes.tensor_programs import PROGRAMS as MORE

    return MORE[name]


def main(name: str, *arguments: str) -> None:
    try:
        with join() as world:
            find(name)(world, *arguments)
    except LlmcError as error:
        sys.stderr.write(f"error: {error.message}\nhint: {error.hint}\n")
        sys.exit(2)


if __name__ == "__main__":
    main(*sys.argv[1:])
