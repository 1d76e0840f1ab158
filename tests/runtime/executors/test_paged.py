"""Paged sessions agree with linear ones, copies go on as their sources, and errors change nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import llmc
from compiler.errors import EngineError, RequestError
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.mesh import mesh_of
from compiler.ir.packed_step import PackedStep, SequenceStep
from compiler.ir.paged import paged
from compiler.ir.step import Step
from compiler.passes import run_pipeline
from compiler.store import write_ranks
from llmc.verification.tolerance import logits_tolerance
from runtime.executors.cpu.executor import CpuExecutor
from runtime.executors.interpreter import InterpreterExecutor
from runtime.executors.paged import PagedSession, WholePagedSession, paged_executor
from runtime.executors.parallel.pipeline import LogitsType, PipelineExecutor
from runtime.executors.parallel.workers import drive
from runtime.executors.torch import paged_kernels
from runtime.executors.torch.executor import TorchExecutor
from runtime.executors.torch.paged_kernels import EvenRows, GatheredRows, OneSequence, PagedAccess
from tests.paged_schedules import (
    CAPACITY,
    MIXED,
    Schedule,
    blocks_needed,
    largest_error,
    models,
    packed_logits,
    padded_logits,
    schedules,
)
from tests.passes.parallel.configs import noise_model
from tests.paths import MODELS
from tests.runtime.executors.torch.thread_ranks import run_ranks
from tests.runtime.fakes import FakeExecutor

FUSED = "merge-linears,fuse-attention,cleanup"
VOCAB, BLOCK = 1024, 4
EXACT = logits_tolerance("float32", 4)


def lifted(family: str, passes: str = FUSED) -> Graph:
    return llmc.optimize(llmc.lift(MODELS / f"{family}-tiny", max_batch=4, max_seq=32), f"dtype=float32,{passes}").graph


def stored(graph: Graph, folder: Path) -> Graph:
    return read_graph(folder / write_ranks(graph, folder)[0].graph_file)


def by_torch(graph: Graph) -> TorchExecutor:
    return TorchExecutor(graph, device="cpu", block=BLOCK)


def by_cpu(graph: Graph) -> CpuExecutor:
    return CpuExecutor(paged(graph, BLOCK))


def by_interpreter(graph: Graph) -> InterpreterExecutor:
    return InterpreterExecutor(paged(graph, BLOCK))


@pytest.fixture(params=[by_torch, by_cpu, by_interpreter])
def executor(request: pytest.FixtureRequest, folder_graph: Graph) -> Any:
    return request.param(folder_graph)


@pytest.fixture(scope="module")
def folder_graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return stored(lifted("opt"), tmp_path_factory.mktemp("opt"))


@pytest.mark.parametrize("family", ["gptneox", "gptj", "opt", "mpt"])
def test_torch_agrees_with_linear_caches(family: str, tmp_path: Path) -> None:
    graph = stored(lifted(family), tmp_path)
    expected = padded_logits(TorchExecutor(graph, device="cpu").open(3, 32), MIXED, VOCAB)
    executor = by_torch(graph)
    found = packed_logits(executor.open_paged(blocks_needed(MIXED)), MIXED, VOCAB)
    rows = padded_logits(executor.open(3, 32), MIXED, VOCAB)
    assert largest_error(found, expected) < EXACT
    assert largest_error(rows, expected) < EXACT


@settings(max_examples=15)
@given(models(), schedules(), st.sampled_from([1, 40, 2**24]))
def test_torch_agrees_with_the_interpreter(case: Any, schedule: Schedule, budget: int) -> None:
    """Also where masks are too large to be kept, and tokens attend some at a time."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(paged_kernels, "BUDGET", budget)
        graph = stored(run_pipeline(noise_model(case.config), FUSED).graph, Path(name))
        vocab = int(graph.facts["vocab_size"])
        blocks = blocks_needed(schedule)
        expected = InterpreterExecutor(paged(graph, schedule.block)).open_paged(blocks)
        executor = TorchExecutor(graph, device="cpu", block=schedule.block)
        logits = packed_logits(expected, schedule, vocab)
        assert largest_error(packed_logits(executor.open_paged(blocks), schedule, vocab), logits) < EXACT
        rows = executor.open(schedule.sequences, CAPACITY)
        assert largest_error(padded_logits(rows, schedule, vocab), logits) < EXACT


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_quantized_pools_stay_quantized(kind: str, tmp_path: Path) -> None:
    plain = llmc.lift(MODELS / "mpt-tiny", max_batch=4, max_seq=32)
    linear = run_pipeline(plain, f"dtype=float32,kv={kind},{FUSED}", dry_run=True).graph
    graph = stored(linear, tmp_path)
    session = by_torch(graph).open_paged(blocks_needed(MIXED))
    assert {pool.element_size() for pool in session.stage.pools} == {1}
    expected = padded_logits(TorchExecutor(graph, device="cpu").open(3, 32), MIXED, VOCAB)
    assert largest_error(packed_logits(session, MIXED, VOCAB), expected) < 0.05


def test_blocks_that_follow_each_other_are_read_in_place() -> None:
    """One sequence, or single tokens of several at equal distances; anything else is read sequence by sequence."""

    def parts(*sequences: tuple[int, list[int], list[int]]) -> list[Any]:
        step = PackedStep.of([SequenceStep(*each) for each in sequences])
        return PagedAccess(step, BLOCK, 20, torch.device("cpu")).parts

    (alone,) = parts((5, [1, 2], [3, 4]))
    assert isinstance(alone, OneSequence) and alone.blocks == range(3, 5)
    (joined,) = parts((5, [1], [3, 4]), (4, [1], [6, 7]), (6, [1], [9, 10]))
    assert joined == EvenRows(0, 3, 12, 12, (6, 5, 7))
    assert len(parts((5, [1], [3, 4]), (4, [1], [6, 7]), (6, [1], [8, 9]))) == 3
    assert len(parts((0, [1], [0]), (15, [1], [4, 5, 6, 7]))) == 2  # it would read much more than there is
    assert len(parts((5, [1], [0, 1]), (2, [1], [19]))) == 2  # it would read beyond the pool
    prompt, *rows = parts((0, [1, 2, 3], [0]), (1, [1], [1]), (1, [1], [2]))
    assert isinstance(prompt, OneSequence) and [type(each) for each in rows] == [EvenRows]


def one(past: int, tokens: list[int], blocks: list[int]) -> PackedStep:
    return PackedStep.of([SequenceStep(past, tokens, blocks, range(len(tokens)))])


def test_copied_blocks_go_on_as_their_sources(executor: Any) -> None:
    """A sequence whose last block is half full parts in two; blocks change places; a source is overwritten."""
    session: PagedSession = executor.open_paged(6)
    session.step(one(0, [7, 8, 9, 10, 11, 12], [0, 1]))
    session.copy_blocks([1, 1, 0], [2, 3, 5])
    expected = session.step(one(6, [5, 6, 7], [0, 1, 4])).clone()
    assert torch.equal(session.step(one(6, [5, 6, 7], [0, 2, 4])), expected)
    session.copy_blocks([5, 3], [3, 5])
    found = session.step(one(6, [5, 6, 7], [3, 5, 4]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    session.copy_blocks([], [])


FAULTS: dict[str, tuple[Callable[[PagedSession], object], str]] = {
    "a block that is none": (lambda s: s.step(one(2, [1], [6])), "is in block 6; the blocks are 0 to 5"),
    "a short table": (lambda s: s.step(one(3, [1, 2], [0])), "grows from 3 to 5 tokens"),
    "a copy of none": (lambda s: s.copy_blocks([6], [0]), "there is no block 6 to copy; the session"),
    "two copies to one": (lambda s: s.copy_blocks([1, 2], [0, 0]), "block 0 was to become a copy of two blocks"),
}  # fmt: skip


@pytest.mark.parametrize(("ask", "message"), FAULTS.values(), ids=FAULTS)
def test_errors_come_before_anything_changes(executor: Any, ask: Callable[[Any], object], message: str) -> None:
    session, other = executor.open_paged(6), executor.open_paged(6)
    for each in (session, other):
        each.step(one(0, [7, 8, 9], [0]))
    with pytest.raises(RequestError, match=message):
        ask(session)
    assert torch.equal(session.step(one(3, [5], [0])), other.step(one(3, [5], [0])))


def test_a_step_may_want_no_logits(executor: Any) -> None:
    session, other = executor.open_paged(2), executor.open_paged(2)
    step = one(0, [7, 8, 9], [1])
    found = session.step(step._replace(logit_pos=step.logit_pos[:0]))
    assert tuple(found.shape) == (0, VOCAB)
    other.step(step)
    assert torch.equal(session.step(one(3, [5], [1])), other.step(one(3, [5], [1])))


def test_a_step_may_be_of_some_rows(executor: Any) -> None:
    session, other = executor.open(3, 9), executor.open(3, 9)
    first = Step.of_prompts([[1, 2], [3], [4, 5, 6]])
    session.step(first)
    other.step(first)
    second = Step(*(torch.tensor(each, dtype=torch.int32) for each in ([[7], [8], [9]], [2, 1, 3], [1] * 3, [[0]] * 3)))
    expected = session.step(second)
    found = [other.step(second.of(slice(1, 3)), 1).clone(), other.step(second.of(slice(0, 1)))]
    torch.testing.assert_close(torch.cat(found[::-1]), expected, rtol=1e-4, atol=1e-4)


def test_rows_that_grow_too_long_are_refused(executor: Any) -> None:
    session = executor.open(2, 5)
    with pytest.raises(RequestError, match="a sequence grew to 6 tokens; the caches hold 5"):
        session.step(Step.of_prompts([[1] * 6, [1]]))
    with pytest.raises(RequestError, match="5 sequences were asked for; the engine is built for 1 to 4"):
        executor.open(5, 8)
    with pytest.raises(RequestError, match="0 blocks were asked for"):
        executor.open_paged(0)


def test_each_kind_of_caches_opens_its_own_sessions(folder_graph: Graph) -> None:
    linear: list[Any] = [TorchExecutor(folder_graph, device="cpu"), InterpreterExecutor(folder_graph)]
    for executor in linear:
        assert executor.block is None
        with pytest.raises(EngineError, match="linear, so that it takes no packed steps"):
            executor.open_paged(3)
    for executor in (by_torch(folder_graph), by_interpreter(folder_graph)):
        assert executor.block == BLOCK
        with pytest.raises(EngineError, match="paged, in blocks of 4 tokens"):
            executor.open_stage(1, 8)
    with pytest.raises(EngineError, match="the caches of fake are linear"):
        paged_executor(FakeExecutor())


@pytest.mark.parametrize("family", ["gptneox", "gptj", "opt", "mpt"])
@pytest.mark.parametrize(
    ("kind", "mesh"),
    [
        ("torch", "tp=2"),
        ("torch", "pp=2"),
        ("torch", "tp=2,pp=2"),
        ("cpu", "tp=2,pp=2"),
        ("interpreter", "tp=2,pp=2"),
    ],
)
def test_ranks_agree_with_one(kind: str, mesh: str, family: str, tmp_path: Path) -> None:
    """Rank 0 tells the others what to do; steps are cut into parts of four tokens or more. The ranks are threads."""
    whole = stored(lifted(family), tmp_path)
    expected = padded_logits(TorchExecutor(whole, device="cpu").open(3, 32), MIXED, VOCAB)
    ranks = write_ranks(run_pipeline(lifted(family, f"{mesh},{FUSED}"), f"cache=paged:block={BLOCK}").graph, tmp_path)
    shape = mesh_of(ranks[0].graph)
    found: list[Any] = []

    def check(everyone: Any) -> None:
        assert everyone.block == BLOCK
        memory = everyone.block_memory()
        assert len(memory) == shape.size and {each.where for each in memory} == {memory[0].where}
        # Keys and values of four layers, four heads of 32, in float32; the interpreter makes them anew beside the old.
        assert sum(each.bytes for each in memory) == 2 * 4 * BLOCK * 128 * 4 * (2 if kind == "interpreter" else 1)
        session = everyone.open_paged(blocks_needed(MIXED) + 1)
        found.append(packed_logits(session, MIXED, VOCAB))
        with pytest.raises(RequestError, match="is in block 99"):
            session.step(one(0, [1], [99]))
        before = session.step(one(0, [1, 2, 3], [0])).clone()
        session.copy_blocks([0], [blocks_needed(MIXED)])
        after = session.step(one(1, [2, 3], [blocks_needed(MIXED)]))
        torch.testing.assert_close(after, before[1:], rtol=1e-4, atol=1e-4)
        del session
        everyone.open_paged(1)

    def work(world: Any, tp: Any, pp: Any) -> None:
        path = tmp_path / ranks[world.rank].graph_file
        own: Any
        if kind == "torch":
            own = TorchExecutor.load(path, device="cpu", group=tp)
        elif kind == "cpu":
            own = CpuExecutor.load(path, group=tp)
        else:
            own = InterpreterExecutor.load(tmp_path, {"graph": path.name}, group=tp)
        if shape.pp > 1:
            own = PipelineExecutor(own, pp, LogitsType(VOCAB, torch.float32), tokens=4)
        drive(world, own, check)

    run_ranks(shape.tp, shape.pp, work)
    assert largest_error(found[0], expected) < EXACT


def test_stages_are_given_parts_of_a_step(folder_graph: Graph) -> None:
    """Any cut of a step gives what the whole does: a sequence may be cut in two."""
    steps: list[int] = []
    session = by_torch(folder_graph).open_paged(4)
    expected = session.step(one(0, [1, 2, 3, 4, 5, 6], [0, 1])).clone()
    other = by_torch(folder_graph).open_paged(4)
    assert isinstance(other, WholePagedSession)
    step = one(0, [1, 2, 3, 4, 5, 6], [3, 1])
    logits = torch.empty_like(expected)
    for bounds in ((0, 1), (1, 4), (4, 6)):
        part, asked = step.part(*bounds)
        logits[asked] = other.step(part)
        steps.append(part.tokens)
    assert steps == [1, 3, 2]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["gptneox", "mpt"])
@pytest.mark.parametrize("kind", ["", "kv=int8,", "kv=fp8,"])
def test_copies_of_rows_that_lie_anywhere_give_what_each_gives_alone(
    family: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = llmc.lift(MODELS / f"{family}-tiny", max_batch=4, max_seq=32)
    graph = stored(run_pipeline(plain, f"dtype=float32,{kind}{FUSED}", dry_run=True).graph, tmp_path)
    expected = packed_logits(by_torch(graph).open_paged(blocks_needed(MIXED)), MIXED, VOCAB)
    made: list[GatheredRows] = []

    def parts(sequences: Sequence[OneSequence], block: int, blocks: int, device: torch.device) -> Iterator[object]:
        for single, grouped in groupby(sequences, lambda each: each.stop - each.start == 1):
            group = list(grouped)
            made.extend([GatheredRows.of(group, block, device)] if single else [])
            yield from made[-1:] if single else group

    monkeypatch.setattr(paged_kernels, "_parts", parts)
    found = packed_logits(by_torch(graph).open_paged(blocks_needed(MIXED)), MIXED, VOCAB)
    assert made and largest_error(found, expected) < 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", ["gptneox", "gptj", "opt", "mpt"])
@pytest.mark.parametrize("kind", ["", "kv=int8,", "kv=fp8,"])
def test_a_gpu_agrees_with_the_cpu(family: str, kind: str, tmp_path: Path) -> None:
    plain = llmc.lift(MODELS / f"{family}-tiny", max_batch=4, max_seq=32)
    graph = stored(run_pipeline(plain, f"dtype=float32,{kind}{FUSED}", dry_run=True).graph, tmp_path)
    expected = packed_logits(by_torch(graph).open_paged(blocks_needed(MIXED)), MIXED, VOCAB)
    executor = TorchExecutor(graph, device="cuda", block=BLOCK)
    tolerance = 0.05 if kind else 1e-3  # products may be rounded to TF32
    found = packed_logits(executor.open_paged(blocks_needed(MIXED)), MIXED, VOCAB)
    assert largest_error(found, expected) < tolerance
    rows = padded_logits(executor.open(3, 32), MIXED, VOCAB)
    assert largest_error(rows, expected) < tolerance
