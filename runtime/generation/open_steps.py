"""Opening sessions of executors for sequences in flight."""

from __future__ import annotations

from runtime.executors.interface import Executor
from runtime.executors.memory import most_blocks
from runtime.executors.paged import PagedExecutor, blocks_of_rows
from runtime.generation.block_steps import BlockSteps
from runtime.generation.row_steps import RowSteps
from runtime.generation.session_steps import SessionSteps


def open_steps(
    executor: Executor, sequences: int, longest: int, cache_tokens: int | None = None, *, spare: bool = False
) -> SessionSteps:
    """A new session of an executor, over blocks if its caches are paged, else over rows.

    Args:
        executor: what runs the model.
        sequences: how many sequences there can be at once.
        longest: how many tokens a sequence may have.
        cache_tokens: how many tokens paged caches hold, rounded up to whole blocks; if None, those of so many
            sequences, or as many as there is memory for.
        spare: whether there may be more blocks than the sequences need, to share the beginnings of texts that have
            ended.

    Raises:
        RequestError: if the engine was not built for so many, or the memory does not suffice.
    """
    if not isinstance(executor, PagedExecutor) or executor.block is None:
        return RowSteps(executor.open(sequences, longest))
    block = executor.block
    needed = blocks_of_rows(sequences, longest, block)
    if cache_tokens is not None:
        given = -(-cache_tokens // block)
        blocks = given if spare else min(given, needed)
    else:
        most = most_blocks(executor.block_memory())
        blocks = needed if most is None else max(1, min(needed, most))
    return BlockSteps(executor.open_paged(blocks), sequences=sequences, longest=longest)
