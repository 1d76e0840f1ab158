"""Two computations that advance in turns."""

import gc
import weakref
from collections.abc import Collection, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from compiler.errors import GraphError
from compiler.ir.step import Step
from llmc.tracing.lockstep import run_in_lockstep
from llmc.tracing.source import Emit

STEPS = [Step.of_prompts([[1, 2]]), Step.of_prompts([[3]])]
NAMES = [f"v{number}" for number in range(200)]
SAME = [(name, name) for name in NAMES]


class Made:
    """A side that makes a tensor for each name."""

    def __init__(self, names: Sequence[str], alive: "weakref.WeakSet[Tensor] | None" = None) -> None:
        self.names, self.alive, self.most, self.made = names, alive, 0, 0

    def run(self, steps: Sequence[Step], wanted: Collection[str], emit: Emit) -> None:
        for number, _ in enumerate(steps):
            for name in self.names:
                if name == "bad":
                    raise GraphError("it fails")
                self.made += 1
                if name in wanted:
                    tensor = torch.full((2,), float(name.removeprefix("v")))
                    if self.alive is not None:
                        self.alive.add(tensor)
                        self.most = max(self.most, len(self.alive))
                    emit(number, name, [tensor])


def run(a: Any, b: Any, pairs: Sequence[tuple[str, str]]) -> list[tuple[int, str, str]]:
    seen = []

    def compare(step: int, name: str, found: Sequence[Tensor], other: str, expected: Sequence[Tensor]) -> None:
        assert found[0][0] == float(name[1:])
        assert expected[0][0] == float(other[1:])
        seen.append((step, name, other))

    run_in_lockstep(a, b, STEPS, pairs, compare)
    return seen


def test_every_pair_is_compared_in_every_step() -> None:
    assert run(Made(NAMES), Made(NAMES), SAME) == [(step, name, name) for step in (0, 1) for name in NAMES]


def test_values_are_kept_until_their_counterparts_come_and_no_longer() -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    swapped = [name for first, second in zip(NAMES[::2], NAMES[1::2], strict=True) for name in (second, first)]
    a, b = Made(NAMES, alive), Made(swapped, alive)
    seen = run(a, b, SAME)
    assert sorted(seen) == sorted((step, name, name) for step in (0, 1) for name in NAMES)
    assert max(a.most, b.most) <= 8  # of 400 in each step
    gc.collect()
    assert len(alive) == 0


def test_a_value_may_have_several_counterparts() -> None:
    pairs = [("v1", "v5"), ("v2", "v5"), ("v5", "v1"), ("v5", "v2")]
    assert sorted(run(Made(NAMES), Made(NAMES), pairs)) == sorted((step, *pair) for step in (0, 1) for pair in pairs)


def test_a_value_that_never_comes_is_not_waited_for() -> None:
    assert run(Made(NAMES), Made(NAMES[:5]), SAME) == [(step, name, name) for step in (0, 1) for name in NAMES[:5]]


@pytest.mark.parametrize("failing", ["a", "b"])
def test_what_one_side_raises_ends_both(failing: str) -> None:
    good, bad = Made(NAMES), Made([*NAMES[:3], "bad", *NAMES[3:]])
    sides = (bad, good) if failing == "a" else (good, bad)
    with pytest.raises(GraphError, match="it fails"):
        run(*sides, SAME)
    assert good.made <= 5
