"""Checking that rows which were copied go on as the rows that they are copies of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from compiler.ir.step import Step, last_positions
from runtime.executors.interface import Session

Copies = tuple[list[int], list[int]]


@st.composite
def row_copies(draw: Callable[..., object], rows: int) -> Copies:
    """Sources, each any number of times, and destinations, each at most once: permutations, and one row to many."""
    order = st.permutations(range(rows))
    if draw(st.booleans()):
        return list(draw(order)), list(draw(order))  # type: ignore[call-overload]
    destinations: list[int] = draw(order.flatmap(lambda p: st.integers(1, rows).map(lambda n: p[:n])))  # type: ignore[assignment]
    return [draw(st.integers(0, rows - 1)) for _ in destinations], destinations  # type: ignore[misc]


def tokens(vocab: int, seed: int, count: int) -> list[int]:
    return torch.randint(1, vocab, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def stepped(session: Session, rows: Sequence[Sequence[int]], past: Sequence[int]) -> Tensor:
    """The logits of each row's last token, after it got these."""
    step = Step.of_prompts(rows)
    given = Step(step.token_ids, torch.tensor(past, dtype=torch.int32), step.new_len, last_positions(step.new_len))
    return session.step(given)[:, 0].float().clone()


def largest_difference(
    opened: Callable[[], Session], vocab: int, lengths: Sequence[int], copies: Sequence[Copies], more: int = 2
) -> float:
    """How far logits after copies are from those without any, relative to these: 0 if rows go on as they should.

    Rows get tokens, are copied, get more, are copied again and so on. Without copies, a row gets what all its
    descendants get, which are therefore as many tokens as those of a row of its own; what differs is where they lie.

    Args:
        opened: opens a session for `len(lengths)` rows, twice.
        vocab: the number of tokens.
        lengths: how many tokens each row has before it is copied; some may have none.
        copies: the copies, one after the other.
        more: how many steps of one token, and one of three, come after each of them.
    """
    copied, plain = opened(), opened()
    count = len(lengths)
    origin = list(range(count))  # the row of the plain session that each row goes on from
    past = list(lengths)  # by that row
    first = [tokens(vocab, row, length) for row, length in enumerate(lengths)]
    expected, found = (stepped(session, first, [0] * count) for session in (plain, copied))
    worst = _difference(found, expected, [row for row in range(count) if lengths[row]])
    for number, (sources, destinations) in enumerate(copies):
        copied.copy_rows(sources, destinations)
        after = dict(zip(destinations, [origin[source] for source in sources], strict=True))
        origin = [after.get(row, origin[row]) for row in range(count)]
        for at, width in enumerate([*[1] * more, 3]):
            new = [tokens(vocab, 100 * number + 10 * at + row, width) for row in range(count)]
            expected = stepped(plain, new, past)
            found = stepped(copied, [new[row] for row in origin], [past[row] for row in origin])
            worst = max(worst, _difference(found, expected[origin], range(count)))
            past = [length + width for length in past]
    return worst


def _difference(found: Tensor, expected: Tensor, rows: Sequence[int]) -> float:
    found, expected = found[list(rows)], expected[list(rows)]
    return float((found - expected).norm() / expected.norm()) if len(found) else 0.0
