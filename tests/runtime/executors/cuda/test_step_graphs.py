"""Steps of fixed sizes: what they are padded to, and how they run ahead of their tokens."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from compiler.ir.packed_step import PackedStep, SequenceStep
from runtime.executors.cuda.executor import CudaExecutor
from runtime.executors.cuda.kernels.addresses import NO_TOKEN, PADDING, Addresses
from runtime.executors.cuda.session import CapturingSession
from runtime.executors.cuda.static_steps import GraphSize, StaticStep, graph_blocks, graph_tokens, prompt_tokens
from runtime.executors.cuda.step_graphs import Due, Run, StepGraphs, resolved
from runtime.executors.paged import StepsAhead, WarmsUp
from tests.runtime.executors.cuda.test_executor import made

CPU = torch.device("cpu")


def decode(*sequences: tuple[int, int, list[int]]) -> PackedStep:
    """A step of one token a sequence, from the tokens, their positions and the blocks."""
    return PackedStep.of([SequenceStep(past, [token], blocks) for token, past, blocks in sequences])


@pytest.mark.parametrize(("tokens", "size"), [(1, 1), (3, 4), (9, 16), (64, 64), (65, 128), (300, 320)])
def test_a_step_runs_in_the_smallest_graph_that_holds_it(tokens: int, size: int) -> None:
    assert graph_tokens(tokens) == size


def test_tables_grow_by_doubling_up_to_the_longest_sequence() -> None:
    assert [graph_blocks(blocks, 20) for blocks in (1, 4, 5, 9, 17, 20)] == [4, 4, 8, 16, 20, 20]
    assert graph_blocks(2, 2) == 2


def test_padding_writes_nothing_and_shows_no_earlier_step() -> None:
    static = StaticStep(GraphSize(4, 4, 4, decodes=True), CPU)
    static.fill(decode((7, 2, [1]), (8, 3, [2]), (9, 5, [0, 3])))
    static.fill(decode((5, 64, [3, 1])))
    ids, positions, rows, tables, wanted = static.step
    assert ids.tolist() == [5, 0, 0, 0] and positions.tolist() == [64, 0, 0, 0]
    assert rows.tolist() == [0, PADDING, PADDING, PADDING]
    assert tables[0, :2].tolist() == [3, 1] and wanted.tolist() == [0, 0, 0, 0]


def test_a_step_that_skips_rows_of_the_tables_takes_those_of_its_sequences() -> None:
    step = decode((7, 0, [1]), (8, 0, [2]), (9, 0, [0]))
    some = step._replace(token_ids=step.token_ids[1:], token_positions=step.token_positions[1:],
                         token_rows=step.token_rows[1:], logit_pos=torch.tensor([0, 1], dtype=torch.int32))  # fmt: skip
    static = StaticStep(GraphSize(2, 2, 4, decodes=True), CPU)
    static.fill(some)
    assert static.step.block_tables[:, 0].tolist() == [2, 0]


def test_steps_with_prompts_run_in_graphs_of_at_most_a_quarter_more_tokens() -> None:
    sizes = [prompt_tokens(tokens) for tokens in range(1, 4097)]
    assert sizes == sorted(sizes) and all(size % 32 == 0 for size in sizes) and len({*sizes}) == 32
    assert all(count <= size <= max(32 + count, 1.25 * count) for count, size in enumerate(sizes, 1))
    assert prompt_tokens(4096) == 4096


def test_a_step_with_prompts_is_padded_and_its_sequences_come_first_in_the_tables() -> None:
    step = PackedStep.of(
        [SequenceStep(0, [5] * 130, [4, 5, 6]), SequenceStep(64, [7], [3, 1]), SequenceStep(2, [8, 9], [2], [])]
    )
    some = step._replace(token_rows=step.token_rows * 2, block_tables=step.block_tables.repeat_interleave(2, 0))
    static = StaticStep(GraphSize(160, 4, 4, decodes=False), CPU)
    static.clear()
    static.fill(some)
    ids, positions, rows, tables, wanted = static.step
    assert ids.tolist() == [*step.token_ids.tolist(), *[0] * 27]
    assert positions.tolist() == [*step.token_positions.tolist(), *[0] * 27]
    assert rows.tolist() == [*step.token_rows.tolist(), *[PADDING] * 27]
    assert tables[:3, :3].equal(step.block_tables) and wanted.tolist() == [129, 130, 0, 0]
    found, plain = static.addresses(64), Addresses.of(step, 64, CPU)
    assert found.queries is not None and plain.queries is not None
    assert found.queries.tolist() == [*plain.queries.tolist(), *[[0] * 4] * (static.size.items - 3)]
    assert found.singles is not None and found.singles.tolist() == [130, NO_TOKEN, NO_TOKEN, NO_TOKEN]


def test_tensors_of_a_static_step_begin_where_kernels_expect_it() -> None:
    static = StaticStep(GraphSize(1, 1, 5, decodes=True), CPU)
    assert all(field.data_ptr() % 16 == static.step.token_ids.data_ptr() % 16 for field in static.step)


def test_which_steps_are_captured() -> None:
    graphs = StepGraphs(64, 4, 2, 64, CPU)
    both, three = [SequenceStep(0, [1], [0]), SequenceStep(1, [1], [1])], SequenceStep(0, [1], [2])
    assert graphs.takes(PackedStep.of(both)) and graphs.takes(PackedStep.of([both[0], SequenceStep(0, [1, 2], [1])]))
    assert graphs.takes(PackedStep.of([SequenceStep(0, [1] * 64, [0])]))
    assert not graphs.takes(PackedStep.of([SequenceStep(0, [1] * 65, [0, 1])])), "too many tokens"
    assert not graphs.takes(PackedStep.of([SequenceStep(0, [1, 2], [0], [0, 1, 1])])), "too many logits"
    assert not graphs.takes(PackedStep.of([SequenceStep(0, [1, 2], [0]), three, SequenceStep(0, [3, 4], [1], [])]))


class _Replayed:
    """What stands for a captured graph: it does what was done when it was captured, over what its memory holds now."""

    def __init__(self, replay: Callable[[], None]) -> None:
        self.replay = replay


class _Graphs(StepGraphs):
    """Graphs without a GPU.

    Attributes:
        captures: the sizes in the order in which they were captured.
        ran: how many steps ran op by op.
    """

    def __init__(self) -> None:
        super().__init__(64, 4, 4, 256, CPU)
        self._memory = (0, 0)  # type: ignore[assignment]
        self.captures: list[GraphSize] = []
        self.ran = 0

    def plus_one(self, step: PackedStep, addresses: Addresses) -> torch.Tensor:
        """The logits of a model that counts."""
        self.ran += 1
        return torch.nn.functional.one_hot(step.token_ids[step.logit_pos].long() + 1, 300).float()

    def _capture(self, static: StaticStep, run: Run) -> Any:
        self.captures.append(static.size)
        return _Replayed(lambda: self._run(static, run))


def test_the_second_step_of_a_size_is_captured_and_finds_what_the_step_before_chose() -> None:
    graphs = _Graphs()

    def prompt(count: int, *first: int) -> PackedStep:
        """A prompt of so many tokens, beside sequences of a token each."""
        alone = [SequenceStep(3, [token], [at]) for at, token in enumerate(first)]
        return PackedStep.of([*alone, SequenceStep(0, [*range(count)], [2, 3])])

    def chosen(step: PackedStep) -> list[int]:
        for due in Due.of([number for each in graphs.due(step) for number in each.numbers]):
            graphs.prepare(due, graphs.plus_one)
        static = graphs.takes(step)
        assert static is not None
        return [int(token) for token in graphs.step(step, static, graphs.plus_one).argmax(-1)]

    assert chosen(prompt(70, 5, 7)) == [6, 8, 70]
    assert (graphs.captures, graphs.ran) == ([], 1)
    # Another graph is captured first: the larger one, whose memory is then shared.
    assert chosen(prompt(75, -2, -3)) == [9, 71, 75]
    assert [size.tokens for size in graphs.captures] == [128, 96]
    assert chosen(prompt(80, -3, -1)) == [76, 10, 80]
    assert chosen(prompt(100, 1)) == [2, 100] and len(graphs.captures) == 2
    assert chosen(decode((9, 1, [0]), (-1, 2, [1]))) == [10, 3]
    assert chosen(decode((-1, 2, [0]), (-2, 3, [1]))) == [11, 4]
    assert [size.tokens for size in graphs.captures] == [128, 96, 2]


def test_all_sizes_of_an_engine_are_known_beforehand() -> None:
    graphs = StepGraphs(64, 4, 5, 4096, CPU)
    sizes = graphs.sizes(5, 200)
    steps = [decode(*((1, 0, [at]) for at in range(count))) for count in range(1, 6)]
    steps += [PackedStep.of([SequenceStep(0, [1] * count, [0, 1, 2, 3])]) for count in (2, 33, 200)]
    taken = [graphs.takes(step) for step in steps]
    assert {static.size for static in taken if static is not None} <= {*sizes} and None not in taken
    assert len({*sizes}) == len(sizes) and sizes[0].tokens == max(size.tokens for size in sizes)


def test_ids_of_tokens_that_are_not_known_yet() -> None:
    chosen = torch.tensor([[11, 0], [12, 0]], dtype=torch.int32)
    assert resolved(torch.tensor([-2, 5, -1], dtype=torch.int32), chosen).tolist() == [12, 5, 11]


def test_steps_ahead_of_their_tokens_choose_what_steps_after_them_do(tmp_path: Path) -> None:
    executor = CudaExecutor(made("gptj", "", tmp_path), device=CPU)
    prompts, tables = ([3, 1, 4], [1, 5]), ([0], [1])
    session, ahead = executor.open_paged(2), executor.open_paged(2)
    assert isinstance(ahead, StepsAhead)
    for each in (session, ahead):
        step = PackedStep.of(
            [SequenceStep(0, prompt[:-1], table) for prompt, table in zip(prompts, tables, strict=True)]
        )
        each.step(step)
    tokens = [[*prompt] for prompt in prompts]
    for _ in range(4):
        step = decode(*((row[-1], len(row) - 1, table) for row, table in zip(tokens, tables, strict=True)))
        for row, token in zip(tokens, session.step(step).argmax(-1).tolist(), strict=True):
            row.append(token)
    found = [[*prompt] for prompt in prompts]
    chosen = ahead.step_ahead(
        decode(*((row[-1], len(row) - 1, table) for row, table in zip(found, tables, strict=True)))
    )
    for at in range(1, 5):
        following = decode(*((-1 - row, len(prompts[row]) - 1 + at, tables[row]) for row in (0, 1)))
        later = ahead.step_ahead(following) if at < 4 else chosen
        ids, logits = chosen.wait()
        assert all(map(torch.isfinite, map(torch.tensor, logits)))
        for row, token in zip(found, ids, strict=True):
            row.append(token)
        chosen = later
    assert found == tokens


def test_steps_with_prompts_are_what_they_are_without_padding(tmp_path: Path) -> None:
    """A chunk and a single token beside each other, the rest of the prompt ahead of the tokens, and a sampled step."""
    executor = CudaExecutor(made("gpt_neox", "", tmp_path), device=CPU)
    plain = executor.open_paged(3)
    executor.captured_prompts = 64
    padded = CapturingSession(executor.open_paged_stage(3), 64, 3)
    first = PackedStep.of(
        [SequenceStep(0, [3, 1, 4], [0]), SequenceStep(0, [5], [2]), SequenceStep(0, [7, 8], [1], [])]
    )
    expected = plain.step(first).clone()
    chosen = padded.step_ahead(first)
    ids, largest = chosen.wait()
    assert ids == expected.argmax(-1).tolist() and torch.tensor(largest).allclose(expected.amax(-1), atol=1e-5)
    known = [SequenceStep(3, [ids[0]], [0]), SequenceStep(1, [ids[1]], [2]), SequenceStep(2, [9, 2], [1])]
    unknown = [SequenceStep(3, [-1], [0]), SequenceStep(1, [-2], [2]), SequenceStep(2, [9, 2], [1])]
    expected = plain.step(PackedStep.of(known)).clone()
    ids, _ = padded.step_ahead(PackedStep.of(unknown)).wait()
    assert ids == expected.argmax(-1).tolist()
    last = PackedStep.of([SequenceStep(4, [ids[0], 6], [0]), SequenceStep(2, [ids[1]], [2])])
    assert padded.step(last).allclose(plain.step(last), atol=1e-5)


def test_warming_up_changes_no_sequence(tmp_path: Path) -> None:
    executor = CudaExecutor(made("opt", "", tmp_path), device=CPU)
    session = executor.open_paged(1)
    assert isinstance(session, WarmsUp)
    session.step(PackedStep.of([SequenceStep(0, [1, 2], [0])]))
    step, ready = decode((3, 2, [0])), []
    expected = session.step(step).clone()
    session.warm_up(1, 64, lambda at, of: ready.append((at, of)))
    assert ready == [(1, 1)]
    assert session.step(step).equal(expected)


def test_pools_give_way_to_larger_ones_before_these_are_allocated(tmp_path: Path) -> None:
    executor = CudaExecutor(made("opt", "", tmp_path), device=CPU)
    session = executor.open_paged(1)
    stage = weakref.ref(session.stage)
    session.step(decode((3, 0, [0])))
    del session
    assert stage() is not None, "it is kept for a session of its size"
    gc.disable()
    try:
        executor.open_paged(2)
        assert stage() is None
    finally:
        gc.enable()


def test_what_a_step_chose_is_that_of_the_first_rank() -> None:
    """Ranks that round differently would go on with different texts."""
    graphs = StepGraphs(64, 4, 4, 64, CPU, lambda chosen: chosen.copy_(torch.tensor([[9, 0]] * len(chosen))))
    graphs.choose(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert resolved(torch.tensor([-1, -2, 3], dtype=torch.int32), graphs._chosen).tolist() == [9, 9, 3]


def test_preparing_a_size_leaves_what_was_chosen() -> None:
    graphs = _Graphs()
    graphs.choose(torch.eye(3))
    due = graphs.due_of(GraphSize(32, 4, 64, decodes=False))
    assert (due.runs, due.captures) == (True, True) and Due.of(due.numbers * 2) == [due, due]
    graphs.prepare(due, graphs.plus_one)
    assert graphs._chosen[:3, 0].tolist() == [0, 1, 2]
    assert not graphs.due_of(due.size).runs and not graphs.due_of(due.size).captures
