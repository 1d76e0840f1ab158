"""Greedy tokens of every mesh are those of one rank, in float32; the ranks are threads."""

from typing import Any

import pytest
import torch

import llmc
from compiler.ir.mesh import mesh_of
from compiler.store import write_ranks
from runtime.executors.interpreter import InterpreterExecutor
from runtime.executors.parallel.pipeline import LogitsType, PipelineExecutor
from runtime.executors.parallel.workers import drive
from runtime.executors.torch.executor import TorchExecutor
from runtime.generation.generate import generate
from runtime.generation.requests import Request
from tests.paths import MODELS
from tests.runtime.executors.torch.thread_ranks import run_ranks

FAMILIES = ["gptneox", "gptj", "opt", "mpt"]
REQUESTS = [
    Request(tuple(prompt), count)
    for prompt, count in [([72, 300, 5], 9), ([9] * 11 + [41], 4), ([700], 7), ([3, 2, 1, 500, 8], 6), ([65, 66], 8)]
]
EXECUTORS = {
    "torch": lambda folder, rank, group: TorchExecutor.load(folder / f"rank{rank}.ir", device="cpu", group=group),
    "interpreter": lambda folder, rank, group: InterpreterExecutor.load(
        folder, {"graph": f"rank{rank}.ir"}, group=group
    ),
}


@pytest.fixture(scope="module")
def lifted():
    """The graph of a family, lifted once."""
    graphs = {}

    def get(family):
        if family not in graphs:
            graphs[family] = llmc.lift(MODELS / f"{family}-tiny", max_batch=3, max_seq=40)
        return graphs[family]

    return get


@pytest.fixture(scope="module")
def alone(lifted, tmp_path_factory):
    """The tokens of a family on one rank."""
    known = {}

    def get(family):
        if family not in known:
            folder = tmp_path_factory.mktemp("alone")
            write_ranks(llmc.optimize(lifted(family), "dtype=float32,cleanup").graph, folder)
            known[family] = tokens(TorchExecutor.load(folder / "rank0.ir", device="cpu"))
        return known[family]

    return get


def tokens(executor):
    return [result.token_ids for result in generate(executor, REQUESTS, batch=3)[0]]


def tokens_of_ranks(graph, folder, kind="torch"):
    """What rank 0 generates while the others serve it."""
    mesh, vocabulary = mesh_of(graph), int(graph.facts["vocab_size"])
    found = []

    def work(world, tp, pp):
        executor: Any = EXECUTORS[kind](folder, world.rank, tp)
        if mesh.pp > 1:
            # Parts of few tokens, so that prompts are cut into several.
            executor = PipelineExecutor(executor, pp, LogitsType(vocabulary, torch.float32), tokens=4)
        drive(world, executor, lambda everyone: found.append(tokens(everyone)))

    run_ranks(mesh.tp, mesh.pp, work)
    [result] = found
    return result


MESHES = [
    *(f"tp={n}{embed}" for n in (2, 4) for embed in ("", ",embed=vocab", ",embed=hidden")),
    "pp=2",
    "pp=3",
    # Stages without caches, and stages that receive what was gathered at the positions of the logits.
    "pp=7",
    *(f"tp=2{embed},pp=2" for embed in ("", ",embed=vocab", ",embed=hidden")),
    "tp=2,embed=vocab,pp=8",
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mesh", MESHES)
def test_every_mesh_gives_the_tokens_of_one_rank(lifted, alone, tmp_path, family, mesh):
    graph = llmc.optimize(lifted(family), f"dtype=float32,{mesh},merge-linears,fuse-attention,cleanup").graph
    write_ranks(graph, tmp_path)
    assert tokens_of_ranks(graph, tmp_path) == alone(family)


@pytest.mark.parametrize("mesh", ["tp=2,embed=vocab", "pp=3", "tp=2,embed=hidden,pp=2"])
def test_interpreted_ranks_do_so_too(lifted, alone, tmp_path, mesh):
    graph = llmc.optimize(lifted("gptj"), f"dtype=float32,{mesh},cleanup").graph
    write_ranks(graph, tmp_path)
    assert tokens_of_ranks(graph, tmp_path, "interpreter") == alone("gptj")
