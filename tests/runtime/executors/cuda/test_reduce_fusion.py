"""Sums over the ranks of a stage, by memory that they share: here a rank whose only peer has what it has."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.paged import paged
from compiler.store import write_ranks
from llmc.compiling.dry_pipeline import dry_pipeline
from llmc.pipeline import compose
from runtime.collectives.communicator import SingleRank
from runtime.executors.cuda import executor as cuda
from runtime.executors.cuda.executor import CudaExecutor
from runtime.executors.interpreter import InterpreterExecutor
from tests.paged_schedules import Schedule, blocks_needed, largest_error, packed_logits
from tests.passes.parallel.configs import noise_model
from tests.runtime.executors.cuda.test_executor import CPU, EXACT, FAMILIES, VOCAB


class Doubles(SingleRank):
    """A group of two ranks, of which the other one always has the same."""

    size = 2

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return tensor.mul_(2)

    def all_gather(self, tensor: Tensor, axis: int) -> Tensor:
        return torch.cat([tensor, tensor], axis)


class Peers:
    """Sums of such ranks, of so many elements at most; `count` says how many there were."""

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 0

    def takes(self, count: int) -> bool:
        return count <= self.most

    def __call__(self, parts: Tensor, dtype: torch.dtype) -> Tensor:
        self.count += 1
        return 2 * parts.float().sum(0).to(dtype)


def rank_of(family: str, passes: str, folder: Path) -> Graph:
    """The first of two ranks."""
    model = noise_model({"model_type": family, **FAMILIES[family]})
    graph = dry_pipeline(model, compose(f"{passes},tp=2".lstrip(","), None)).graph
    return paged(read_graph(folder / write_ranks(graph, folder)[0].graph_file), 4)


@pytest.mark.parametrize(("family", "passes"), [("gpt_neox", ""), ("opt", "quant=int8"), ("gptj", ""), ("mpt", "")])
def test_sums_over_ranks_are_those_of_the_collectives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, passes: str
) -> None:
    graph, schedule, peers = rank_of(family, passes, tmp_path), Schedule(((5, 1), (1, 1)), 4, 0), Peers(3 * 64)
    group: Any = Doubles()
    monkeypatch.setattr(cuda, "peer_sums", lambda group: peers)
    ours = CudaExecutor(graph, device=CPU, group=group)
    reductions = len([*graph.find("all_reduce")])
    assert sum(fusion.name == "sum over ranks" for fusion in ours.fusions) == reductions > 0
    found, expected = (
        packed_logits(each.open_paged(blocks_needed(schedule)), schedule, VOCAB)
        for each in (ours, InterpreterExecutor(graph, group=group))
    )
    assert largest_error(found, expected) < EXACT
    assert peers.count == reductions  # of the second step, the first one being too large


def test_ranks_that_share_no_memory_use_the_collectives(tmp_path: Path) -> None:
    graph = rank_of("gptj", "", tmp_path)
    group: Any = Doubles()
    assert all(fusion.name != "sum over ranks" for fusion in CudaExecutor(graph, device=CPU, group=group).fusions)
