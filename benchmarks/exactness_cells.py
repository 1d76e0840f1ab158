"""What `gpu_exactness.py` does with one checkpoint and one recipe, in a process of its own."""

from __future__ import annotations

import gc
import math
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from exactness_references import CpuLogits, transformers_logits
from prompts import prompts

import llmc
from compiler.ir.comparison import relative_error
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from llmc.opt import optimize
from llmc.verification.compare import Reference, compare
from llmc.verification.report import Run
from llmc.verification.test_cases import Recorder, TestCase
from llmc.verification.tolerance import logits_tolerance
from runtime.executors.kind import find_executor
from runtime.generation.engine import Engine
from runtime.generation.requests import Request
from runtime.load.ranks import run_on_ranks
from runtime.processes.launch import launch

PROMPTS, NEW_TOKENS, AIM = 8, 24, 2.0
_DEVIATIONS = 5
"""Of tens of thousands of tokens, hardly one has logits that are off by more than so many standard deviations."""
LIMITS: Mapping[str, Any] = {"max_batch": PROMPTS, "max_seq": 256, "calib_samples": 8, "calib_length": 128}
RECIPES = (
    "",
    "quant=int8",
    "quant=int4",
    "quant=int4:group=64",
    "quant=awq:group=64",
    "quant=gptq:group=32",
    "quant=fp8",
    "quant=fp8:act=token",
    "quant=fp8:act=off",
    "quant=int8:act=token",
    "quant=int8:act=static",
    "quant=smoothquant:act=static",
)
CACHES = ("", "kv=int8", "kv=fp8")


@dataclass(frozen=True)
class Work:
    """A checkpoint and a recipe that are to be checked.

    Attributes:
        model: the checkpoint's folder.
        recipe: the passes that quantize weights and activations.
        cache: the pass that quantizes caches; empty for caches of the type that is computed in.
        executor: what is checked.
        device: where it runs.
        ranks: how many ranks share each layer.
    """

    model: Path
    recipe: str
    cache: str
    executor: str = "cuda"
    device: str = "cuda"
    ranks: int = 1

    @property
    def passes(self) -> str:
        """The pipeline for one rank."""
        return ",".join(filter(None, (self.recipe, self.cache)))

    @property
    def rounds(self) -> bool:
        """Whether something is quantized while the model runs."""
        activations = ("act=token", "act=static", "fp8", "smoothquant")
        return bool(self.cache) or ("act=off" not in self.recipe and any(word in self.recipe for word in activations))


@dataclass
class Cell:
    """What was found.

    Attributes:
        model: the checkpoint.
        recipe: the passes.
        texts: of how many prompts all tokens are the CPU's, in float32.
        prompts: how many prompts there were.
        ties: tokens that the CPU likes as much as its own, but for rounding.
        wrong: tokens that are neither.
        error: the largest relative error of a prompt's logits in float32 against the CPU's.
        bound: what rounding explains of it.
        half_error: the relative error of logits in float16 against float64.
        half_bound: what quantizing activations and caches explains of it.
        theirs: the error of transformers in float16 against float64, over the same texts.
        seconds: how long it took.
        failure: why there is nothing.
    """

    model: str
    recipe: str
    texts: int = 0
    prompts: int = 0
    ties: int = 0
    wrong: list[str] = field(default_factory=list)
    error: float = 0.0
    bound: float = 0.0
    half_error: float | None = None
    half_bound: float = 0.0
    theirs: float | None = None
    seconds: float = 0.0
    failure: str = ""

    @property
    def ratio(self) -> float | None:
        """The error in float16 over that of transformers."""
        return self.half_error / self.theirs if self.half_error is not None and self.theirs else None

    @property
    def good(self) -> bool:
        """Whether rounding explains all differences."""
        if self.failure or self.wrong or self.error > self.bound:
            return False
        return self.half_error is None or self.half_error <= max(AIM * (self.theirs or 0.0), self.half_bound)


@dataclass
class Found:
    """What an engine gave: texts as a user gets them, and texts with the logits of each step."""

    texts: list[list[int]]
    recorder: Recorder


def test_case(ids: Sequence[Sequence[int]]) -> TestCase:
    """All prompts in one ragged batch."""
    requests = tuple(Request(tuple(prompt), NEW_TOKENS) for prompt in ids)
    return TestCase("batch", tuple(range(1, len(ids) + 1)), requests, PROMPTS)


def texts_of(engine: Engine, ids: list[list[int]]) -> list[list[int]]:
    """The tokens that follow each prompt."""
    return [list(each.token_ids) for each in engine.generate(ids, max_new_tokens=NEW_TOKENS, ignore_eos=True)]


def run(engine: Engine, ids: list[list[int]]) -> Found:
    """Extend the prompts, as `generate` does and step by step."""
    return Found(texts_of(engine, ids), test_case(ids).run(engine.executor))


def run_ranks(path: Path, ids: list[list[int]], work: Work, folder: Path) -> Found:
    """The same on all ranks of an engine."""
    job, made = folder / "job.pt", folder / "made.pt"
    torch.save({"path": path, "ids": ids, "work": work, "made": made}, job)
    script = str(Path(__file__).with_name("gpu_exactness.py"))
    status = launch(["--job", str(job)], work.ranks, program=(sys.executable, script))
    if status:
        raise RuntimeError(f"the ranks ended with {status}")
    texts, logits, tokens = torch.load(made, weights_only=False)
    return Found(texts, Recorder(logits, tokens))


def run_job(job: Path) -> None:
    """What each rank of `run_ranks` does."""
    given = torch.load(job, weights_only=False)

    def main(engine: Engine) -> None:
        found = run(engine, given["ids"])
        torch.save((found.texts, found.recorder.logits, found.recorder.tokens), given["made"])

    work = given["work"]
    run_on_ranks(given["path"], main, device=work.device, executor=work.executor, verify=False)


def check(work: Work) -> Cell:
    """Check a checkpoint and a recipe."""
    torch.set_num_threads(1)
    cell, began = Cell(work.model.name, work.passes or "none", prompts=PROMPTS), time.perf_counter()
    with TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        try:
            ids = _compare_tokens(work, cell, Path(folder))
            if work.ranks == 1:
                _compare_half(work, cell, ids, Path(folder))
        except Exception as error:  # noqa: BLE001 - it is reported, and the others go on
            cell.failure = f"{type(error).__name__}: {str(error)[:300]}"
    gc.collect()
    cell.seconds = time.perf_counter() - began
    return cell


def _compile(work: Work, dtype: str, folder: Path, *, ranks: int = 1) -> Path:
    passes = ",".join(filter(None, (work.passes, f"tp={ranks}" if ranks > 1 else "")))
    target = find_executor(work.executor).targets[0]
    place = folder / f"{dtype}-{ranks}"
    return llmc.compile(work.model, place, passes=passes, dtype=dtype, target=target, **LIMITS).path


def _compare_tokens(work: Work, cell: Cell, folder: Path) -> list[list[int]]:
    """Compare tokens and logits in float32 with the CPU's; returns the prompts."""
    path = _compile(work, "float32", folder)
    cpu = llmc.load(path, device="cpu", executor="torch", verify=False)
    ids = [cpu.encode(text) for text in prompts(PROMPTS)]
    expected = texts_of(cpu, ids)
    if work.ranks > 1:
        found = run_ranks(_compile(work, "float32", folder, ranks=work.ranks), ids, work, folder)
    else:
        found = run(llmc.load(path, device=work.device, executor=work.executor, verify=False), ids)
    graph = _graph(path)
    reference = CpuLogits(graph)
    tolerance = logits_tolerance("float32", int(str(graph.facts["layers"])))
    runs: list[Run] = compare(test_case(ids), found.recorder, reference, tolerance, reference)  # type: ignore[arg-type]
    cell.texts = sum(map(list.__eq__, found.texts, expected))
    worst = max(runs, key=lambda each: each.error / each.tolerance)
    cell.error, cell.bound = worst.error, worst.tolerance
    for each, prompt, text, theirs in zip(runs, ids, found.texts, expected, strict=True):
        for one in each.differences:
            explained = max(tolerance, _gap(each, each.step_errors[one.step]))
            cell.ties += one.gap <= explained
            if one.gap > explained:
                cell.wrong.append(
                    f"prompt {each.prompt}, step {one.step}: a gap of {one.gap:.1e}, {explained:.1e} explained"
                )
        _see_text(cell, each, prompt, text, theirs, reference, tolerance)
    return ids


def _gap(run: Run, error: float) -> float:
    """By how much two logits may change places that are off by `error`, or by what is explained if that is less."""
    return _DEVIATIONS * math.sqrt(2) * min(error, run.tolerance)


def _see_text(
    cell: Cell, run: Run, prompt: list[int], text: list[int], expected: list[int], reference: CpuLogits, least: float
) -> None:
    """See that where a text leaves the CPU's, the CPU likes both tokens as much, but for rounding.

    How far the logits are off there is known if the same text came out step by step, and else at most what it was then.
    """
    at = next((at for at, (a, b) in enumerate(zip(text, expected, strict=True)) if a != b), None)
    if at is None:
        return
    logits = reference.logits(prompt, text[: at + 1])[at].double()
    gap = (logits[expected[at]] - logits[text[at]]).item() / logits.square().mean().sqrt().item()
    known = run.token_ids[:at] == tuple(text[:at])
    explained = max(least, _gap(run, run.step_errors[at] if known else max(run.step_errors)))
    if gap > explained:
        cell.wrong.append(f"prompt {run.prompt}, token {at} of the text: a gap of {gap:.1e}, {explained:.1e} explained")


def _compare_half(work: Work, cell: Cell, ids: list[list[int]], folder: Path) -> None:
    """Compare the logits in float16 with those in float64, and transformers' as well."""
    path = _compile(work, "float16", folder)
    recorder = test_case(ids).run(llmc.load(path, device=work.device, executor=work.executor, verify=False).executor)
    reference = Reference(optimize(_graph(path), "dtype=float32").graph, accumulate=torch.float64)
    texts = [(prompt, recorder.tokens[at]) for at, prompt in enumerate(ids)]
    exact = torch.cat([reference.logits(*text) for text in texts])
    found = torch.cat([torch.stack(recorder.logits[at]) for at in range(len(ids))])
    cell.half_error = relative_error(found, exact)
    cell.half_bound = max(reference.rounding(*text) for text in texts) if work.rounds else 0.0
    theirs, right = (
        torch.cat([transformers_logits(work.model, dtype, device, *text) for text in texts])
        for dtype, device in ((torch.float16, work.device), (torch.float64, "cpu"))
    )
    cell.theirs = relative_error(theirs, right)


def _graph(engine: Path) -> Graph:
    return read_graph(engine / "rank0.ir")
