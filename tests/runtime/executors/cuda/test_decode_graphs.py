"""Steps that decode one token a sequence: what they are padded to, and how they run ahead of their tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compiler.ir.packed_step import PackedStep, SequenceStep
from runtime.executors.cuda.decode_graphs import DecodeGraphs, StaticStep, graph_blocks, graph_tokens, resolved
from runtime.executors.cuda.executor import CudaExecutor
from runtime.executors.cuda.kernels.addresses import PADDING
from runtime.executors.paged import StepsAhead
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
    static = StaticStep(4, 4, CPU)
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
    static = StaticStep(2, 4, CPU)
    static.fill(some)
    assert static.step.block_tables[:, 0].tolist() == [2, 0]


def test_only_steps_of_one_token_a_sequence_with_all_logits_are_captured() -> None:
    assert DecodeGraphs.takes(decode((7, 0, [0]), (8, 1, [1])))
    assert not DecodeGraphs.takes(PackedStep.of([SequenceStep(0, [1, 2], [0])]))
    assert not DecodeGraphs.takes(PackedStep.of([SequenceStep(0, [1], [0]), SequenceStep(0, [1], [1], [])]))


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
