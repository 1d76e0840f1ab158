"""What ranks do with tensors; see `programs`."""

from __future__ import annotations

import contextlib
import gc
import sys

import torch

from compiler.errors import LlmcError, RequestError
from compiler.ir.step import Step
from runtime.collectives.groups import form_groups
from runtime.executors.interface import Executor, Session
from runtime.executors.parallel.pipeline import PipelineExecutor
from runtime.executors.parallel.workers import drive
from runtime.processes.world import World
from tests.runtime.executors.copied_rows import largest_difference
from tests.runtime.fakes import FakeExecutor
from tests.runtime.processes.programs import say
from tests.runtime.processes.toy_model import LOGITS, VOCAB, ToyStage, tokens

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
DTYPES = [*FLOATS, torch.int8, torch.int32, torch.int64]


def collectives(world: World, *meshes: str) -> None:
    """Check every operation on every dtype, then `generate`."""
    comm, n, rank = world.comm, world.size, world.rank
    for dtype in DTYPES:
        every = [torch.arange(12).view(3, 4).mul(r + 1).to(dtype) for r in range(n)]
        own = every[rank].clone()
        assert comm.all_reduce(own) is own
        assert torch.equal(own, sum(every[1:], every[0]))
        across = every[rank].t().clone().t()  # not contiguous
        assert torch.equal(comm.all_reduce(across), own)
        largest = (every[rank] * (-1) ** rank).t().clone().t()
        assert comm.all_max(largest) is largest
        assert torch.equal(largest, torch.stack([x * (-1) ** r for r, x in enumerate(every)]).amax(0))
        for axis in (0, 1, -1):
            assert torch.equal(comm.all_gather(every[rank], axis), torch.cat(every, axis))
        assert torch.equal(comm.broadcast(every[rank].clone(), n - 1), every[n - 1])
        comm.send(every[rank], (rank + 1) % n)
        every[rank].zero_()  # its memory may be used again
        source = (rank - 1) % n
        arrived = comm.recv(torch.empty(3, 4, dtype=dtype), source)
        assert torch.equal(arrived, torch.arange(12).view(3, 4).mul(source + 1).to(dtype))
    rounding(world)
    scalars(world)
    generate(world, *meshes)


def rounding(world: World) -> None:
    """Sums of 16-bit floats are rounded once, and have the same bits everywhere."""
    torch.manual_seed(world.rank)
    for dtype in FLOATS:
        own = torch.randn(1000).to(dtype)
        every = list(world.comm.all_gather(own[None], 0))
        wide = [x.float() if dtype.itemsize == 2 else x for x in every]
        total = wide[0]
        for x in wide[1:]:
            total = total + x
        assert torch.equal(world.comm.all_reduce(own), total.to(dtype))


def scalars(world: World) -> None:
    """Tensors without dims, and without elements; large ones, sent before anyone takes them."""
    n, rank = world.size, world.rank
    assert world.comm.all_reduce(torch.tensor(2.0)).item() == 2.0 * n
    assert world.comm.all_gather(torch.zeros(0, 3), 0).shape == (0, 3)
    large = torch.full((1 << 20,), float(rank))
    for _ in range(3):
        world.comm.send(large, (rank + 1) % n)
    for _ in range(3):
        assert world.comm.recv(torch.empty_like(large), (rank - 1) % n)[-1] == (rank - 1) % n


def generate(world: World, *meshes: str) -> None:
    """Generate over each of the meshes, `TPxPP`, each stage with its own length of chunks; print what each gave."""
    results = []
    for mesh in meshes:
        tp, pp = map(int, mesh.split("x"))
        groups = form_groups(world.comm, tp=tp)
        toy = ToyStage(groups.pp.rank, pp, groups.tp, chunk=4 - groups.pp.rank % 3)
        drive(world, PipelineExecutor(toy, groups.pp, LOGITS, tokens=2), lambda e: results.append(tokens(e)))
        sizes = {rows.stop - rows.start for rows in toy.rows}
        assert sizes == ({3} if pp == 1 else {1, 3}), sizes
    say(results) if world.rank == 0 else None


class Narrow(FakeExecutor):
    """Rank 1 has memory for two sequences only, and for one session."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.alive = rank, 0

    def open(self, batch, capacity):
        if self.rank == 1 and batch > 2:
            raise RequestError("no memory", hint="ask for fewer")
        return super().open(batch, capacity)


def sessions(world: World) -> None:
    """A session that one rank cannot open is an error that can be caught; one that is dropped goes on all ranks."""
    found: list[object] = []

    def work(executor) -> None:
        with contextlib.suppress(RequestError):
            executor.open(3, 40)
            found.append("opened")
        try:
            executor.open(4, 40)
        except LlmcError as error:
            found.append([error.message, error.hint])
        for _ in range(3):
            session = executor.open(2, 2000)
            step = Step.of_prompts([[1] * 1500] * 2)  # more than one broadcast takes
            found.append(session.step(step).argmax(-1).tolist())
            del session
            gc.collect()

    drive(world, Narrow(world.rank), work)
    alive = sum(type(x).__name__ == "FakeSession" for x in gc.get_objects())
    found.append(world.comm.all_gather_object(alive))
    if world.rank == 0:
        say(found)
        sys.stdout.flush()


def copies(world: World, *meshes: str) -> None:
    """Copy rows over each of the meshes; print how far the logits are from those of rows that were not copied."""
    differences: list[float] = []

    def opened(executor: Executor) -> Session:
        """A session that has refused what cannot be copied, of which the other ranks must not hear."""
        session = executor.open(3, 20)
        with contextlib.suppress(RequestError):
            session.copy_rows([0, 1], [2, 2])
            raise AssertionError("two rows were copied to one")
        return session

    def check(executor: Executor) -> None:
        every = ([([1, 2, 0], [0, 1, 2])], [([0, 0], [1, 2]), ([2, 0], [0, 1])])
        differences.extend(largest_difference(lambda: opened(executor), VOCAB, [4, 1, 2], moves) for moves in every)

    for mesh in meshes:
        tp, pp = map(int, mesh.split("x"))
        groups = form_groups(world.comm, tp=tp)
        stage = ToyStage(groups.pp.rank, pp, groups.tp)
        drive(world, PipelineExecutor(stage, groups.pp, LOGITS, tokens=2), check)
    say(differences) if world.rank == 0 else None


PROGRAMS = {"collectives": collectives, "copies": copies, "sessions": sessions}
