"""Plans on several ranks, in threads: all ranks run on the same ones, and show their logits."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from compiler.ir.step import Step
from llmc.verification.plan_test_cases import plan_notes
from llmc.verification.test_cases import TestCase
from runtime.executors.interface import PlannedExecutor, PlanSize
from runtime.executors.parallel.rank_plans import RankPlans
from runtime.executors.parallel.workers import ParallelExecutor, drive
from runtime.generation.requests import Request
from tests.runtime.executors.torch.thread_ranks import run_ranks

ONE = PlanSize("decode-b1", 1, 1, 128)
TWO = PlanSize("decode-b2", 2, 1, 128)
WIDE = PlanSize("prefill-s16", 0, 16, 128)


class Planned:
    """A rank's executor, whose logits prefer the token `rank + the plans' number`, and which notes what it runs on."""

    name = "planned"

    def __init__(self, rank: int, sizes: list[PlanSize], runs: list[tuple[int, tuple[str, ...]]]) -> None:
        self.rank, self.plan_sizes, self.runs = rank, sizes, runs
        self.batch = self.capacity = 0

    def limited_to(self, names: Any) -> "Planned":
        assert set(names) <= {size.name for size in self.plan_sizes}
        return Planned(self.rank, [size for size in self.plan_sizes if size.name in names], self.runs)

    def open(self, batch: int, capacity: int) -> "Planned":
        self.runs.append((self.rank, tuple(size.name for size in self.plan_sizes)))
        opened = Planned(self.rank, self.plan_sizes, self.runs)
        opened.batch, opened.capacity = batch, capacity
        return opened

    def step(self, step: Step, first_row: int = 0) -> Tensor:
        logits = torch.zeros(step.batch, step.wanted, 8, dtype=torch.float16)
        logits[..., self.rank] = 1 + self.rank
        return logits

    def copy_rows(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        raise NotImplementedError


class Plain(Planned):
    """An executor without plans."""

    plan_sizes = property(lambda self: (), lambda self, value: None)


Runs = list[tuple[int, tuple[str, ...]]]


def on_ranks(sizes: list[list[PlanSize]], main: Any, *, kind: type = Planned, scoring: int = 1) -> Runs:
    """Run `main` on rank 0 of ranks that have those plans; returns which rank opened a session on which plans."""
    runs: Runs = []

    def work(world: Any, tp: Any, pp: Any) -> None:
        drive(world, kind(world.rank, sizes[world.rank], runs), main, scoring=scoring)

    run_ranks(len(sizes), 1, work)
    return sorted(runs)


def test_all_ranks_run_on_the_same_plans() -> None:
    def main(everyone: ParallelExecutor) -> None:
        assert isinstance(everyone, PlannedExecutor)
        assert list(everyone.plan_sizes) == [ONE, TWO, WIDE]
        assert everyone.plans.ranks == ((0, 1, 2),) * 3
        for names in (("decode-b2", "prefill-s16"), ("decode-b1",)):
            limited = everyone.limited_to(names)
            session = limited.open(1, 8)
            ones = torch.ones(1, dtype=torch.int32)
            session.step(Step(ones[None], ones * 0, ones, ones[None] * 0))
        everyone.open(1, 8)

    runs = on_ranks([[ONE, TWO, WIDE]] * 3, main)
    for rank in range(3):
        assert [names for number, names in runs if number == rank] == [
            ("decode-b1",),
            ("decode-b1", "decode-b2", "prefill-s16"),
            ("decode-b2", "prefill-s16"),
        ]


def test_a_rank_that_lacks_a_plan_runs_on_those_of_its_own_that_are_alike() -> None:
    longer = PlanSize("decode-b1-long", 1, 1, 256)

    def main(everyone: ParallelExecutor) -> None:
        assert [size.name for size in everyone.plan_sizes] == [
            "decode-b1",
            "decode-b1-long",
            "prefill-s16",
            "decode-b2",
        ]
        assert everyone.plans.ranks == ((0, 1), (0, 1), (0,), (1,))
        everyone.limited_to(["decode-b2"]).open(1, 8)
        everyone.limited_to(["decode-b1-long", "prefill-s16"]).open(1, 8)

    runs = on_ranks([[ONE, longer, WIDE], [ONE, longer, TWO]], main)
    assert runs == [
        (0, ("decode-b1",)),
        (0, ("decode-b1-long", "prefill-s16")),
        (1, ("decode-b1", "decode-b1-long", "decode-b2")),  # it has no plan for prompts at all
        (1, ("decode-b2",)),
    ]


def test_ranks_without_plans_have_none() -> None:
    def main(everyone: ParallelExecutor) -> None:
        assert everyone.plan_sizes == ()
        everyone.open(1, 8)

    assert len(on_ranks([[], []], main, kind=Plain)) == 2


def test_what_a_stage_does_not_see_does_not_limit_its_plans() -> None:
    """A last stage is given no tokens, and a stage without layers has no caches."""
    unlimited = 2**31 - 1
    last = [PlanSize("decode-b2", 2, unlimited, unlimited), PlanSize("prefill-s16", 1, unlimited, unlimited)]
    assert RankPlans.of([[TWO, WIDE], last]).sizes == (TWO, WIDE)


def test_a_trial_keeps_the_logits_of_every_rank_that_has_some() -> None:
    found = {}

    def main(everyone: ParallelExecutor) -> None:
        test_case = TestCase("decode-b2", (1, 2, 1), tuple(Request((5,), 2) for _ in range(3)), 2, ("decode-b2",))
        found[0] = test_case.run(everyone)

    runs = on_ranks([[ONE, TWO], [ONE, TWO], [ONE, TWO]], main, scoring=2)
    assert runs == [(rank, ("decode-b2",)) for rank in range(3)]
    recorder = found[0]
    assert recorder.tokens == {request: [0, 0] for request in range(3)}  # those that rank 0 prefers
    assert list(recorder.others) == [1]
    other = recorder.others[1]
    assert other.tokens == recorder.tokens
    assert {request: [step.tolist() for step in steps] for request, steps in other.logits.items()} == {
        request: [[0, 2, 0, 0, 0, 0, 0, 0]] * 2 for request in range(3)
    }


def test_what_is_not_tried_on_some_ranks_is_said() -> None:
    said: list[list[str]] = []

    def main(everyone: ParallelExecutor) -> None:
        manifest = SimpleNamespace(targets={"tensorrt-rtx": ({"plans": "plans.json"},)}, mesh=SimpleNamespace(size=3))
        engine: Any = SimpleNamespace(manifest=manifest, executor=everyone, path=Path())
        test_case = TestCase("decode-b1", (1,), (Request((1,), 1),), 1, ("decode-b1",))
        said.append(plan_notes(engine, [test_case]))

    on_ranks([[ONE, TWO, WIDE], [ONE, TWO], [ONE]], main)
    assert said == [
        [
            "only the ranks 0, 1 have the plan decode-b2; the others run on plans of their own while it is tried",
            "only rank 0 has the plan prefill-s16; the others run on plans of their own while it is tried",
        ]
    ]
