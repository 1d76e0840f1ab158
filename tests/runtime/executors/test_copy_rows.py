"""Rows that are copied go on as the rows that they are copies of, on every executor and mesh."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.backend_trt import BuildOptions, build_plans
from compiler.errors import RequestError
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.mesh import mesh_of
from compiler.passes import run_pipeline
from compiler.passes.quant.caches.kv import quantize_caches, scale_of
from compiler.store import StoredRank, write_ranks
from compiler.store.constant_loader import constant_loader
from compiler.trt_network.library import load_library
from runtime.collectives.communicator import Communicator
from runtime.executors.interface import Executor
from runtime.executors.interpreter import InterpreterExecutor
from runtime.executors.parallel.pipeline import LogitsType, PipelineExecutor
from runtime.executors.parallel.workers import drive
from runtime.executors.tensorrt.executor import TensorRTExecutor
from runtime.executors.torch.executor import TorchExecutor
from tests.frontends.models import neox_config, random_model, saved
from tests.frontends.steps import MAX_SEQ, lift_folder
from tests.runtime.executors.copied_rows import largest_difference, row_copies
from tests.runtime.executors.tensorrt.fake_engine import BATCH as ROWS
from tests.runtime.executors.tensorrt.fake_engine import CAPACITY, SPLIT, FakeBackend, dynamic, fake_executor
from tests.runtime.executors.torch.thread_ranks import run_ranks
from tests.runtime.fakes import VOCAB as FAKE_VOCAB
from tests.runtime.fakes import FakeExecutor

VOCAB, WIDEST_PROMPT = 31, 6
# A row may be summed in another order in another place; in 8 bits a value then gets another code, if rarely.
EXACT, ROUNDED = 1e-4, 0.05
CACHES = {"plain": None, "int8": DType.i8, "fp8": DType.f8e4m3}
PAGED = ",cache=paged:block=8"
MESHES = ["tp=2", "pp=2", "tp=2,pp=2"]

Load = Callable[[Path, StoredRank, Communicator | None], Any]
Compiled = Callable[[str, str], tuple[Path, tuple[StoredRank, ...]]]


def check(executor: Executor, *, vocab: int = VOCAB, capacity: int = MAX_SEQ, tolerance: float, examples: int) -> None:
    """Two copies, one after the other, of rows of any length: any that there can be."""

    @settings(max_examples=examples)
    @given(
        st.lists(row_copies(ROWS), min_size=1, max_size=2),
        st.lists(st.integers(0, WIDEST_PROMPT), min_size=ROWS, max_size=ROWS).filter(any),
    )
    def rows_go_on(copies: list[tuple[list[int], list[int]]], lengths: list[int]) -> None:
        assert largest_difference(lambda: executor.open(ROWS, capacity), vocab, lengths, copies) <= tolerance

    rows_go_on()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compiled]:
    """A small model of random weights: the folder and the ranks, by the mesh and how caches are stored."""
    import transformers

    known: dict[tuple[str, str], tuple[Path, tuple[StoredRank, ...]]] = {}
    with saved(random_model(transformers.GPTNeoXForCausalLM, neox_config(num_hidden_layers=2), seed=0)) as checkpoint:
        lifted = lift_folder(checkpoint)

        def get(mesh: str, caches: str) -> tuple[Path, tuple[StoredRank, ...]]:
            if (mesh, caches) not in known:
                folder = tmp_path_factory.mktemp("ranks")
                ranks, comma, paging = mesh.partition(",cache")
                passes = ",".join(filter(None, (ranks, f"merge-linears,fuse-attention,cleanup{comma}{paging}")))
                graph = run_pipeline(_with_caches(lifted, CACHES[caches]), passes).graph
                known[mesh, caches] = folder, write_ranks(graph, folder)
            return known[mesh, caches]

        yield get


@pytest.fixture(scope="module", autouse=True)
def _no_engines() -> Iterator[None]:
    """Plans are networks alone, all that the emulator reads: that takes a tenth of the time."""
    with patch("compiler.backend_trt.build._serialize", _leave_empty):
        yield


def _leave_empty(trt: Any, builder: Any, network: Any, config: Any, path: Path, *rest: Any) -> None:
    path.touch()


def _with_caches(graph: Graph, dtype: DType | None) -> Graph:
    if dtype is None:
        return graph
    return quantize_caches(graph, dtype, {name: scale_of(torch.tensor([4.0]), dtype) for name in graph.states()})


def by_torch(folder: Path, rank: StoredRank, group: Communicator | None) -> TorchExecutor:
    return TorchExecutor.load(folder / rank.graph_file, device="cpu", group=group)


def by_interpreter(folder: Path, rank: StoredRank, group: Communicator | None) -> InterpreterExecutor:
    return InterpreterExecutor.load(folder, {"graph": rank.graph_file}, group=group)


def by_emulator(folder: Path, rank: StoredRank, group: Communicator | None) -> TensorRTExecutor:
    """Plans for two sizes of caches, so that these grow."""
    pytest.importorskip("tensorrt_rtx")
    name = f"rank{rank.rank}.tensorrt-rtx"
    graph = replace(rank.graph, root=str(folder))
    options = BuildOptions(prompt_sizes=(4,), capacities=(8, MAX_SEQ), batch_sizes=(1, ROWS), workers=1)
    plans = build_plans(
        load_library("tensorrt-rtx"), graph, constant_loader(graph), folder, rank.weights_file,
        name=name, options=options,
    )  # fmt: skip
    return TensorRTExecutor.load(folder, {"plans": plans}, emulate=True, group=group)


EXECUTORS: dict[str, tuple[Load, int]] = {
    "torch": (by_torch, 20),
    "interpreter": (by_interpreter, 5),
    "emulator": (by_emulator, 4),
}
"""How a rank is loaded, and how many examples there is time for."""


@pytest.mark.parametrize("caches", CACHES)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_copied_rows_go_on(compiled: Compiled, executor: str, caches: str) -> None:
    load, examples = EXECUTORS[executor]
    folder, (rank,) = compiled("", caches)
    check(load(folder, rank, None), tolerance=EXACT if caches == "plain" else ROUNDED, examples=examples)


@pytest.mark.parametrize("caches", CACHES)
@pytest.mark.parametrize("executor", ["torch", "interpreter"])
def test_copied_rows_of_paged_caches_go_on(compiled: Compiled, executor: str, caches: str) -> None:
    load, _ = EXECUTORS[executor]
    folder, (rank,) = compiled(PAGED, caches)
    check(load(folder, rank, None), tolerance=EXACT if caches == "plain" else ROUNDED, examples=5)


@pytest.mark.parametrize("executor", ["torch", "interpreter"])
@pytest.mark.parametrize(("mesh", "caches"), [*((mesh, "plain") for mesh in MESHES), ("tp=2,pp=2", "int8")])
def test_copied_rows_of_paged_caches_go_on_on_all_ranks(
    compiled: Compiled, executor: str, mesh: str, caches: str
) -> None:
    check_ranks(compiled, executor, mesh + PAGED, caches, examples=2)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(("mesh", "caches"), [*((mesh, "plain") for mesh in MESHES), ("tp=2,pp=2", "int8")])
def test_copied_rows_go_on_on_all_ranks(compiled: Compiled, executor: str, mesh: str, caches: str) -> None:
    check_ranks(compiled, executor, mesh, caches, examples=max(2, EXECUTORS[executor][1] // 4))


def check_ranks(compiled: Compiled, executor: str, mesh: str, caches: str, *, examples: int) -> None:
    """Rank 0 tells the others to copy, as it tells them to step; the ranks are threads."""
    load, _ = EXECUTORS[executor]
    folder, ranks = compiled(mesh, caches)
    shape = mesh_of(ranks[0].graph)
    checked = []

    def copies(everyone: Executor) -> None:
        check(everyone, tolerance=EXACT if caches == "plain" else ROUNDED, examples=examples)
        checked.append(everyone.name)

    def work(world: Any, tp: Any, pp: Any) -> None:
        own = load(folder, ranks[world.rank], tp)
        if shape.pp > 1:
            own = PipelineExecutor(own, pp, LogitsType(VOCAB, torch.float32), tokens=4)
        drive(world, own, copies)

    run_ranks(shape.tp, shape.pp, work)
    assert len(checked) == 1


@pytest.mark.parametrize("records", [False, True], ids=["run", "replayed"])
@pytest.mark.parametrize("plans", [SPLIT, [dynamic()]], ids=["split", "dynamic"])
def test_copied_rows_go_on_in_caches_of_any_capacity(plans: Any, records: bool) -> None:
    """Caches have 8 positions, then 16; recorded runs go on at the same addresses after a copy."""
    executor = fake_executor(FakeBackend(captures=records), plans)
    check(executor, vocab=FAKE_VOCAB, capacity=CAPACITY, tolerance=0, examples=40)


def test_copied_rows_of_the_fake_executor_go_on() -> None:
    check(FakeExecutor(), vocab=FAKE_VOCAB, capacity=CAPACITY, tolerance=0, examples=40)


FAULTS = {
    "lengths": ([0, 1], [2], "2 rows were to be copied to 1"),
    "source": ([ROWS], [0], f"there is no row {ROWS} to copy; the session's rows are 0 to {ROWS - 1}"),
    "destination": ([0], [-1], "there is no row -1 to copy"),
    "twice": ([0, 1], [2, 2], "row 2 was to become a copy of two rows"),
}


@pytest.mark.parametrize(("sources", "destinations", "message"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("executor", ["torch", "interpreter", "fake-tensorrt", "fake"])
def test_copies_that_cannot_be_are_refused_before_any_is_made(
    compiled: Compiled, executor: str, sources: list[int], destinations: list[int], message: str
) -> None:
    loads: dict[str, Callable[[], Any]] = {
        "fake": FakeExecutor,
        "fake-tensorrt": lambda: fake_executor(FakeBackend()),
    }
    folder, (rank,) = compiled("", "plain")
    load = loads.get(executor) or (lambda: EXECUTORS[executor][0](folder, rank, None))

    class Refusing:
        """A session's `copy_rows` that first asks for what cannot be."""

        def __init__(self) -> None:
            self.session = load().open(ROWS, CAPACITY)
            self.step = self.session.step

        def copy_rows(self, good: list[int], places: list[int]) -> None:
            with pytest.raises(RequestError, match=message):
                self.session.copy_rows(sources, destinations)
            self.session.copy_rows(good, places)

    def opened() -> Any:
        return Refusing()

    assert largest_difference(opened, VOCAB, [3, 1, 2, 5], [([1, 0], [0, 2]), ([], [])]) <= EXACT
