"""The runs that a verification consists of: prompts, alone and together, whose logits are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from compiler.errors import RequestError
from compiler.ir.tasks import Task
from runtime.engine_dir.manifest import EngineLimits
from runtime.executors.interface import Executor, PlannedExecutor
from runtime.executors.parallel.workers import ParallelExecutor
from runtime.generation.engine import Engine, Prompt
from runtime.generation.generate import generate
from runtime.generation.requests import Request, check_requests

_LONGEST = 32


@dataclass
class Recorder:
    """A greedy sampler that keeps the logits of every step: for each request a list of `[vocabulary]`.

    Attributes:
        logits: the logits by the number of the request.
        tokens: the tokens that were chosen from them.
        others: the logits that other ranks of an engine had where the first rank had these, by rank.
    """

    logits: dict[int, list[Tensor]] = field(default_factory=dict)
    tokens: dict[int, list[int]] = field(default_factory=dict)
    others: dict[int, Recorder] = field(default_factory=dict)
    _shown: Mapping[int, Tensor] = field(default_factory=dict)

    def show(self, logits: Mapping[int, Tensor]) -> None:
        """Take what the other ranks made in the step whose tokens are chosen next, `[rows, 1, vocabulary]` each."""
        self._shown = logits

    def choose(self, logits: Tensor, requests: Sequence[int | None]) -> list[int]:
        """See `runtime.generation.sampling.Sampler.choose`; logits that are no numbers are kept, too."""
        chosen = list(map(int, logits.max(-1).indices.tolist()))
        self._keep(logits, chosen, requests)
        for rank, other in self._shown.items():
            self.others.setdefault(rank, Recorder())._keep(other[:, 0], chosen, requests)
        return chosen

    def _keep(self, logits: Tensor, chosen: Sequence[int], requests: Sequence[int | None]) -> None:
        for row, (token, request) in enumerate(zip(chosen, requests, strict=True)):
            if request is not None:
                self.logits.setdefault(request, []).append(logits[row].float().cpu().clone())
                self.tokens.setdefault(request, []).append(token)


@dataclass(frozen=True)
class TestCase:
    """Requests that run together.

    Attributes:
        mode: `alone`, `batch`, or the name of the plan that the test case is for.
        numbers: the numbers of the requests' prompts, from 1; a prompt may run in several rows.
        requests: the requests.
        batch: how many run at once, at most.
        plans: the TensorRT plans to run on; what the executor chooses, if empty.
    """

    __test__ = False  # pytest takes classes of such a name for its own

    mode: str
    numbers: tuple[int, ...]
    requests: tuple[Request, ...]
    batch: int
    plans: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """What it runs, for a person who waits."""
        if self.plans:
            return f"the plan {self.mode}"
        return "all prompts in a batch" if self.mode == "batch" else f"prompt {self.numbers[0]} alone"

    def run(self, executor: Executor) -> Recorder:
        """Extend the requests greedily, through end tokens, on the plans of the test case, if it names some.

        Of an engine of several ranks, the logits of all that have some are kept.
        """
        recorder = Recorder()
        if isinstance(executor, ParallelExecutor):
            executor = executor.showing(recorder.show, self.plans)
        elif self.plans and isinstance(executor, PlannedExecutor):
            executor = executor.limited_to(self.plans)
        generate(executor, self.requests, batch=self.batch, sampler=recorder)
        return recorder


def test_cases(requests: Sequence[Request], batch: int) -> list[TestCase]:
    """Each request alone, then, if an engine takes more than one sequence, all in one ragged batch."""
    alone = [TestCase("alone", (number,), (request,), 1) for number, request in enumerate(requests, 1)]
    if min(batch, len(requests)) == 1:
        return alone
    return [*alone, TestCase("batch", tuple(range(1, len(requests) + 1)), tuple(requests), batch)]


def random_prompts(count: int, seed: int, limits: EngineLimits, vocab_size: int) -> list[list[int]]:
    """Prompts of random tokens; their lengths are spread from 1 to what the limits allow, 32 at most."""
    if count < 1:
        raise RequestError(f"the number of prompts is {count}; it must be at least 1")
    longest = max(1, min(_LONGEST, limits.max_input, limits.max_seq // 2))
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.linspace(1, longest, count).round().int().tolist() if count > 1 else [longest]
    return [torch.randint(vocab_size, (length,), generator=generator).tolist() for length in lengths]


def task_requests(
    tasks: Sequence[Task], requests: Sequence[Request], new_tokens: int, limits: EngineLimits
) -> tuple[list[Request], list[str]]:
    """A request of each task, whose virtual tokens stand before the shortest of the prompts.

    Args:
        tasks: the tasks of the engine.
        requests: the requests without a task, of which there is one at least.
        new_tokens: how many tokens to add to each prompt, where there is room.
        limits: what the engine can take.

    Returns:
        The requests, and for each a sentence that says which of the prompts it is; also for a task that has no room.
    """
    made: list[Request] = []
    notes = []
    prompt = min((request.token_ids for request in requests), key=len)
    for task in tasks:
        ids = (*task.ids, *prompt)
        room = limits.max_seq - len(ids)
        if room < 1 or len(ids) > limits.max_input:
            notes.append(f"the task {task.name!r} is not tried: its {len(ids)} tokens with a prompt leave no room")
            continue
        made.append(Request(ids, min(new_tokens, room)))
        notes.append(
            f"prompt {len(requests) + len(made)} begins with the {task.virtual_tokens} virtual tokens of the task "
            f"{task.name!r}"
        )
    return made, notes


def as_requests(
    engine: Engine,
    prompts: Sequence[Prompt],
    new_tokens: int,
    limits: EngineLimits,
    note: Callable[[str], None],
    *,
    add_special_tokens: bool = True,
) -> list[Request]:
    """The prompts as requests within `limits`; RequestError, naming the prompt, if one cannot be served."""
    manifest = engine.manifest
    ids = [
        engine.encode(prompt, number, add_special_tokens=add_special_tokens) for number, prompt in enumerate(prompts, 1)
    ]
    return check_requests(
        ids, new_tokens, limits=limits, vocab_size=manifest.vocab_size, note=note, facts=manifest.model
    )
