"""Verifying an engine: does it compute what its graph, or the checkpoint, says?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from compiler.errors import RequestError
from compiler.ir.graph import Graph
from compiler.ir.tasks import tasks_of
from compiler.plugins import load_plugins
from compiler.progress import Progress
from compiler.suggest import did_you_mean
from llmc.dtypes import long_spelling
from llmc.evaluation.open_model import load
from llmc.naming import checkpoint_folder
from llmc.progress import Phase, Phases
from llmc.seeds import check_seed
from llmc.verification.bisect import locate
from llmc.verification.compare import Reference, compare
from llmc.verification.plan_test_cases import plan_notes, plan_test_cases
from llmc.verification.references import ReferenceModel, other_reference, own_reference
from llmc.verification.report import Run, Verification
from llmc.verification.test_cases import TestCase, as_requests, random_prompts, task_requests, test_cases
from llmc.verification.tolerance import logits_tolerance
from runtime.engine_dir.engine_folder import open_engine
from runtime.engine_dir.manifest import EngineLimits, opens_as_engine
from runtime.executors.interface import Executor, PlannedExecutor
from runtime.generation.engine import Engine, Prompt
from runtime.generation.requests import Request
from runtime.load.choice import choose
from runtime.load.ignored_options import Case, ignored_notes

_NOT_LOCATED = (
    "the rank and the operation at which an engine of several ranks goes wrong are not looked for: an engine of the "
    "same checkpoint and passes, without tp and pp, tells whether the fault is theirs"
)
_PROMPTS = 4
_MOST_PROMPTS = 10_000

__all__ = ["Verification", "verify", "verify_loaded"]


def verify(
    engine: str | Path,
    against: str | Path | None = None,
    *,
    prompts: Sequence[Prompt] = (),
    random: int = _PROMPTS,
    seed: int = 0,
    max_new_tokens: int = 16,
    tolerance: float | None = None,
    plans: str = "all",
    add_special_tokens: bool = True,
    executor: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    check_files: bool = True,
    plugins: Sequence[str | Path] = (),
    progress: Progress | None = None,
) -> Verification:
    """Compare the logits and greedy tokens of an engine with a reference.

    Every prompt runs alone and together with the others in one ragged batch; where the reference has the engine's
    tasks, so does a prompt of each after its virtual tokens. The reference is given the tokens that
    the engine chose, so that every step is compared on the same text, whatever was chosen before. Plans of a TensorRT
    engine are then tried one by one: see `llmc.verification.plan_test_cases`.

    Args:
        engine: the engine directory.
        against: a checkpoint (its graph, in float32) or another engine (its graph) to compare with; None for the
            engine's own graph, which checks what executes the graph, but not the graph or the weights.
        prompts: texts and lists of token ids; random tokens if there are none.
        random: how many random prompts, of differing lengths.
        seed: what random prompts are drawn from.
        max_new_tokens: how many tokens to add to each prompt.
        tolerance: the largest relative error of logits (RMS of the difference over RMS of the reference) that passes;
            None derives it from the element type and the number of layers.
        plans: whether to try `all` plans of a TensorRT engine, one by one, or by `default` only those that the executor
            chooses for the prompts.
        add_special_tokens: whether prompts given as text get the tokens that the tokenizer puts around a text.
        executor: as of `llmc.load`, but for `auto`: plans are emulated where nothing runs them.
        device: as of `llmc.load`.
        threads: as of `llmc.load`.
        check_files: whether to compare the digest of every file of the engine first.
        plugins: as of `llmc.load`.
        progress: called as work proceeds; see `compiler.progress.Progress`.

    Returns:
        What was found; `holds` says whether the engine is right.

    Raises:
        EngineError: if the engine is damaged, or cannot be compared with `against`.
        LlmcError: if the engine or the reference cannot be loaded, or the engine cannot serve the prompts.
    """
    report = Phases(progress)
    notes = load_plugins(plugins)
    check_wishes(random, seed, max_new_tokens, tolerance, plans)
    check_against(against)
    loaded = _load(engine, executor, device, threads, check_files, report, notes)
    return verify_loaded(
        loaded,
        against,
        prompts=prompts,
        random=random,
        seed=seed,
        max_new_tokens=max_new_tokens,
        tolerance=tolerance,
        plans=plans,
        add_special_tokens=add_special_tokens,
        notes=notes,
        progress=report,
    )


def check_wishes(random: int, seed: int, max_new_tokens: int, tolerance: float | None, plans: str) -> None:
    """RequestError, naming what is wrong, if an argument of `verify` can be right for no engine."""
    check_seed(seed, RequestError)
    if not 1 <= random <= _MOST_PROMPTS:
        raise RequestError(f"the number of prompts is {random}; it must be at least 1, and at most {_MOST_PROMPTS}")
    if max_new_tokens < 1:
        raise RequestError(f"the number of new tokens is {max_new_tokens}; it must be at least 1")
    if tolerance is not None and not 0 < tolerance < math.inf:
        raise RequestError(
            f"the tolerance is {tolerance}; it must be a number above 0", hint="leave it out to have it derived"
        )
    if plans not in ("all", "default"):
        raise RequestError(
            f"there are no plans {plans!r} to verify{did_you_mean(plans, ('all', 'default'))}",
            hint="choose from: all, default",
        )


def _with_prompts(given: bool, random: int) -> Case:
    """The options of random prompts, where there are others."""
    return Case(given, "the prompts are given", {"--prompts": random != _PROMPTS})


def check_against(against: str | Path | None) -> None:
    """See, before the files of an engine are read, that what it is to be compared with is there; LlmcError if not."""
    if against is not None and not opens_as_engine(against):
        checkpoint_folder(against)


def verify_loaded(
    loaded: Engine,
    against: str | Path | None = None,
    *,
    prompts: Sequence[Prompt] = (),
    random: int = _PROMPTS,
    seed: int = 0,
    max_new_tokens: int = 16,
    tolerance: float | None = None,
    plans: str = "all",
    add_special_tokens: bool = True,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Verification:
    """Compare an engine that is loaded with a reference; the arguments and errors are those of `verify`.

    An engine of several ranks runs on all of them; the operation at which it goes wrong is not located.
    """
    check_wishes(random, seed, max_new_tokens, tolerance, plans)
    report = Phases(progress)
    said = [*notes, *ignored_notes(_with_prompts(bool(prompts), random))]
    own = own_reference(loaded)
    reference = own if against is None else other_reference(against, loaded)
    dtype = _worst_dtype(own.graph, reference.graph)
    derived = logits_tolerance(dtype, int(own.graph.facts["layers"]))
    limit = derived if tolerance is None else tolerance
    limits = _common_limits(loaded.manifest.limits, reference.max_seq)
    given = prompts or random_prompts(random, seed, limits, loaded.manifest.vocab_size)
    requests = as_requests(loaded, given, max_new_tokens, limits, said.append, add_special_tokens=add_special_tokens)
    of_tasks, told = _of_tasks(loaded, reference, requests, max_new_tokens, limits)
    said += told
    planned = test_cases([*requests, *of_tasks], limits.max_batch)
    if plans == "all":
        sizes = loaded.executor.plan_sizes if isinstance(loaded.executor, PlannedExecutor) else ()
        planned += plan_test_cases(sizes, requests, max_new_tokens, limits, seed, loaded.manifest.vocab_size)
        said += plan_notes(loaded, [test_case for test_case in planned if test_case.plans])
    drawn = not prompts or any(test_case.plans for test_case in planned)
    said += ignored_notes(Case(not drawn, "no prompt is drawn", {"--seed": seed != 0}))
    ours = Reference(*own.graphs)
    right = ours if reference is own else Reference(*reference.graphs)
    result = Verification(
        engine=str(loaded.path),
        executor=loaded.executor.name,
        reference=reference.words,
        dtype=dtype,
        tolerance=limit,
        runs=tuple(_runs(loaded.executor, planned, right, limit, ours if tolerance is None else None, report)),
        plans=tuple(test_case.mode for test_case in planned if test_case.plans),
        notes=tuple(said),
    )
    if (failed := result.failed_run) is None:
        return result
    if loaded.manifest.mesh.size > 1:
        return replace(result, notes=(*result.notes, _NOT_LOCATED))
    test_case = _shortened(next(t for t in planned if t.mode == failed.mode and failed.prompt in t.numbers), failed)
    with report.phase("looking for the difference"):
        divergence, note = locate(
            loaded, own.graph, None if reference is own else reference.graph, test_case, max(failed.tolerance, derived)
        )
    return replace(result, divergence=divergence, notes=(*result.notes, *([note] if note else [])))


def _of_tasks(
    loaded: Engine, reference: ReferenceModel, requests: Sequence[Request], new_tokens: int, limits: EngineLimits
) -> tuple[list[Request], list[str]]:
    """A request of each of the engine's tasks, if the reference has the same ones; and what to tell about them."""
    tasks = loaded.manifest.tasks
    if tasks_of(reference.graph.facts) == tasks:
        return task_requests(tasks, requests, new_tokens, limits)
    names = ", ".join(task.name for task in tasks)
    return [], [f"the tasks ({names}) are not tried, because the reference does not have the same ones"] * bool(tasks)


def _load(
    path: str | Path,
    executor: str,
    device: str,
    threads: int | None,
    check_files: bool,
    report: Progress,
    notes: list[str],
) -> Engine:
    if executor == "auto":
        chosen = choose(open_engine(path, verify=False), executor, device, emulate=True).executor
        executor = chosen if chosen == "emulator" else executor
    how: Any = {"executor": executor, "device": device, "threads": threads}
    return load(path, progress=report, verify=check_files, note=notes.append, **how)


def _runs(
    executor: Executor,
    planned: Sequence[TestCase],
    reference: Reference,
    tolerance: float,
    own: Reference | None,
    report: Progress,
) -> list[Run]:
    runs: list[Run] = []
    for index, test_case in enumerate(planned):
        report(Phase("verify", test_case.words), index, len(planned))
        recorder = test_case.run(executor)
        runs += _worst(
            replace(run, rank=rank)
            for rank, seen in {0: recorder, **recorder.others}.items()
            for run in compare(test_case, seen, reference, tolerance, own)
        )
    report("verify", len(planned), len(planned))
    return runs


def _worst(runs: Iterable[Run]) -> list[Run]:
    """Of the runs of each prompt the worst; the first of those that are alike."""
    worst: dict[int, Run] = {}
    for run in runs:
        worst[run.prompt] = max(worst.get(run.prompt, run), run, key=attrgetter("badness"))
    return list(worst.values())


def _worst_dtype(*graphs: Graph) -> str:
    """Of the types that graphs compute in, the one that rounds most."""
    names = [long_spelling(str(graph.facts["dtype"])) for graph in graphs]
    return max(names, key=lambda name: torch.finfo(getattr(torch, name)).eps)


def _common_limits(limits: EngineLimits, max_seq: int) -> EngineLimits:
    """What the engine and a reference for sequences of `max_seq` tokens can both take."""
    longest = min(limits.max_seq, max_seq)
    return EngineLimits(limits.max_batch, min(limits.max_input, longest), longest)


def _shortened(test_case: TestCase, run: Run) -> TestCase:
    """The test case up to the step at which the run fails; of requests that run one after the other only that one."""
    step = run.first_bad_step
    assert step is not None
    pairs = zip(test_case.numbers, test_case.requests, strict=True)
    kept = [pair for pair in pairs if test_case.batch > 1 or pair[0] == run.prompt]
    numbers, requests = zip(*kept, strict=True)
    shorter = (replace(r, max_new_tokens=min(r.max_new_tokens, step + 1)) for r in requests)
    return replace(test_case, numbers=numbers, requests=tuple(shorter))
