"""`llmc bench`: how fast an engine is, beside the bound of its memory, and beside other tools."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compiler.errors import RequestError
from compiler.ir.files import read_graph
from compiler.progress import Progress
from llmc.benchmarking.kernels import LoadKernels, measure_kernels
from llmc.benchmarking.runners import TRANSFORMERS, EngineRunner, check_tools, open_tool
from llmc.benchmarking.runs import Cell, Load, Runner, measure
from llmc.evaluation.open_model import load
from llmc.evaluation.transformers_model import check_vocabulary
from llmc.inspection.facts import graph_files
from llmc.progress import Phases, counter
from llmc.step_cost import Bandwidth, StepBytes, bytes_of_ranks, measured_bandwidth, step_bytes
from runtime.engine_dir.manifest import Manifest, read_manifest
from runtime.executors.interface import MeasuresKernels
from runtime.executors.kind import EXECUTORS
from runtime.generation.engine import Engine

BATCHES, INPUTS, OUTPUTS = (1, 8), (128,), (64,)
"""The sequences at once, and the tokens in and out, that are measured if nothing is said, as far as the engine goes."""


@dataclass(frozen=True)
class BenchOptions:
    """What is measured.

    Attributes:
        batches: how many sequences run at once; each number is measured. None for 1 and 8.
        inputs: how many tokens their prompts have; None for 128.
        outputs: how many new tokens they get; None for 64.
        repeats: how many runs of each count.
        warm_up: how many runs before them do not; as many as are needed if None.
        seed: what the prompts, which are random tokens, follow from.
        against: a checkpoint that other tools run.
        tools: those tools; `transformers` if there is a checkpoint and nothing is said.
        dtype: the element type that they compute in; the engine's if None.
        profile: whether to measure, too, how long each kernel of a step takes.
    """

    batches: Sequence[int] | None = None
    inputs: Sequence[int] | None = None
    outputs: Sequence[int] | None = None
    repeats: int = 3
    warm_up: int | None = None
    seed: int = 0
    against: str | None = None
    tools: Sequence[str] = ()
    dtype: str | None = None
    profile: bool = False


@dataclass(frozen=True)
class Benchmark:
    """What was measured.

    Attributes:
        engine: the engine directory.
        device: where it ran.
        bandwidth: the bandwidth of that memory, measured in the same run.
        step: what a decode step of the engine reads.
        cells: the figures.
        kernels: how long the kernels of the engine take, of each load; none if that was not asked for.
    """

    engine: str
    device: str
    bandwidth: Bandwidth
    step: StepBytes
    cells: tuple[Cell, ...]
    kernels: tuple[LoadKernels, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object; the keys are in docs/evaluation.md."""
        return {
            "engine": self.engine,
            "device": self.device,
            "bandwidth": self.bandwidth.bytes_per_second,
            "step_bytes": asdict(self.step),
            "cells": [cell.to_json() for cell in self.cells],
            **({"kernels": [each.to_json() for each in self.kernels]} if self.kernels else {}),
        }


@dataclass(frozen=True)
class Plan:
    """A request that has been checked, before anything is loaded.

    Attributes:
        options: what is measured.
        loads: the loads.
        tools: the other tools.
        notes: sentences for the user.
    """

    options: BenchOptions
    loads: tuple[Load, ...]
    tools: tuple[str, ...]
    notes: tuple[str, ...]


def plan(engine: str | Path, options: BenchOptions) -> Plan:
    """Check a request against an engine, of which only the manifest is read.

    Raises:
        RequestError: if a number cannot be, the engine does not take a load, or a tool or its checkpoint is not there.
        EngineError: if there is no such engine.
    """
    manifest = read_manifest(Path(engine).expanduser(), verify=False)
    if options.repeats < 1:
        raise RequestError(f"--repeat is {options.repeats}; it must be at least 1")
    if options.warm_up is not None and options.warm_up < 0:
        raise RequestError(f"--warm-up is {options.warm_up}; it must be at least 0")
    tools = tuple(options.tools) or ((TRANSFORMERS,) if options.against else ())
    if tools and options.against is None:
        raise RequestError(
            f"--against-tool {tools[0]} has nothing to run", hint="name the checkpoint, too: --against MODEL"
        )
    if options.dtype is not None and options.against is None:
        raise RequestError(f"--dtype {options.dtype} is for --against; an engine's element type is fixed")
    check_tools(tools)
    loads, notes = _loads(manifest, options)
    if options.against is not None:
        check_vocabulary(options.against, manifest.vocab_size)
    return Plan(options, loads, tools, notes)


def _loads(manifest: Manifest, options: BenchOptions) -> tuple[tuple[Load, ...], tuple[str, ...]]:
    """Every combination of what is asked for, each of which the engine takes; and what was left out of the defaults."""
    limits = manifest.limits
    outputs = options.outputs or [min(OUTPUTS[0], max(2, limits.max_seq // 2))]
    inputs = options.inputs or [min(INPUTS[0], limits.max_input, limits.max_seq - max(outputs))]
    batches = options.batches or [size for size in BATCHES if size <= limits.max_batch]
    notes = []
    if options.batches is None and len(batches) < len(BATCHES):
        notes.append(f"the engine runs at most {limits.max_batch} sequences at once, so that 8 are not measured")
    for name, values, least in (("--batch", batches, 1), ("--input", inputs, 1), ("--output", outputs, 2)):
        if wrong := [value for value in values if value < least]:
            raise RequestError(f"{name} holds {wrong[0]}; it must be at least {least}")
    loads = tuple(Load(*each) for each in itertools.product(dict.fromkeys(batches), inputs, outputs))
    for each in loads:
        for value, most, name in (
            (each.batch, limits.max_batch, "--max-batch"),
            (each.input, limits.max_input, "--max-input"),
            (each.input + each.output, limits.max_seq, "--max-seq"),
        ):
            if value > most:
                raise RequestError(
                    f"the engine takes no {each.batch} sequences of {each.input} tokens in and {each.output} out: "
                    f"it was compiled with {name} {most}",
                    hint=f"ask for less, or compile with {name} {value}",
                )
    return loads, tuple(notes)


def bench(
    engine: str | Path,
    options: BenchOptions | None = None,
    *,
    executor: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    check_files: bool = True,
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Benchmark:
    """Measure how fast an engine is.

    Args:
        engine: the engine directory, of one rank.
        options: what is measured.
        executor: as of `llmc.load`, as are `device` and `threads`.
        device: as above.
        threads: as above.
        check_files: whether to compare the digest of every file of the engine.
        progress: called as work proceeds; see `compiler.progress.Progress`.
        note: called with sentences for the user.

    Raises:
        LlmcError: as of `plan` and `llmc.load`.
    """
    wanted = plan(engine, options or BenchOptions())
    how: Any = {"executor": executor, "device": device, "threads": threads, "verify": check_files, "note": note}
    loaded = load(engine, progress=progress, batch=max(each.batch for each in wanted.loads), **how)
    return bench_loaded(loaded, wanted, device=device, progress=progress, note=note)


def bench_loaded(
    engine: Engine, wanted: Plan, *, device: str = "auto", progress: Progress | None = None, note: Callable[[str], None]
) -> Benchmark:
    """As `bench`, with an engine that is loaded, on one rank or several."""
    for text in wanted.notes:
        note(text)
    phases, options = Phases(progress), wanted.options
    place = device_of(engine, device)
    with phases.phase("bandwidth"):
        rate = Bandwidth(measured_bandwidth(place), f"measured on {place}")
    step = _engine_bytes(engine, place)
    cells: list[Cell] = []
    kernels = _kernels(engine, wanted, place, note) if options.profile else ()
    for runner, bound in _runners(engine, wanted, place, step, phases, note):
        count_of_runs = len(wanted.loads) * (
            options.repeats + (runner.warm_up if options.warm_up is None else options.warm_up)
        )
        with phases.phase(f"measuring {runner.name}") as report:
            advance = counter(report, count_of_runs)
            cells += [
                measure(
                    runner,
                    each,
                    lambda load: _prompts(load, engine.manifest.vocab_size, options.seed),
                    repeats=options.repeats,
                    warm_up=options.warm_up,
                    bound=bound.read(each.batch, each.mean_length) / rate.bytes_per_second if bound else None,
                    advance=advance,
                )
                for each in wanted.loads
            ]
    return Benchmark(str(engine.path), place, rate, step, tuple(cells), kernels)


def _kernels(engine: Engine, wanted: Plan, place: str, note: Callable[[str], None]) -> tuple[LoadKernels, ...]:
    """How long the kernels take, where the executor can say it; else a note."""
    executor = engine.executor
    if not isinstance(executor, MeasuresKernels):
        note(f"--profile does nothing here: {executor.name} does not measure its kernels, as the executor cpu does")
        return ()
    runner = EngineRunner(engine, on_gpu=place != "cpu")
    made = [(each, _prompts(each, engine.manifest.vocab_size, wanted.options.seed)) for each in wanted.loads]
    return tuple(measure_kernels(executor, runner, each, prompts) for each, prompts in made)


def _runners(
    engine: Engine, wanted: Plan, place: str, step: StepBytes, phases: Phases, note: Callable[[str], None]
) -> Iterator[tuple[Runner, StepBytes | None]]:
    """The runners, each loaded when the one before has been measured, and what a step of it reads, where known."""
    yield EngineRunner(engine, on_gpu=place != "cpu"), step
    options = wanted.options
    for name in wanted.tools:
        assert options.against is not None
        with phases.phase(f"loading {name}"):
            longest = max(load.input + load.output for load in wanted.loads)
            dtype = options.dtype or engine.manifest.dtype
            runner = open_tool(name, options.against, dtype=dtype, device=place, longest=longest, note=note)
        yield runner, None
        del runner


def device_of(engine: Engine, device: str) -> str:
    """Where an engine runs that was loaded for a device: `cpu`, or the GPU; of several ranks, that of rank 0."""
    import torch

    found = getattr(engine.executor, "device", None)
    if found is not None:
        return str(found)
    name = engine.executor.name.partition(" on ")[0]
    kind = EXECUTORS.find(name)
    on_gpu = kind.uses_gpu(device) if kind is not None else name.startswith("tensorrt")  # by its target
    if not on_gpu or not torch.cuda.is_available():
        return "cpu"
    return device if device.startswith("cuda") else "cuda"


def _engine_bytes(engine: Engine, place: str) -> StepBytes:
    """What a decode step of an engine reads, of all ranks."""
    graphs = graph_files(engine.manifest, engine.path)
    ranks = [step_bytes(read_graph(engine.path / name)) for name in graphs]
    return bytes_of_ranks(ranks, engine.manifest.mesh.tp, one_memory=place == "cpu")


def _prompts(load: Load, vocab_size: int, seed: int) -> list[list[int]]:
    """Random tokens: no two prompts have a beginning in common, which would be computed once."""
    draw = random.Random(seed)
    return [[draw.randrange(vocab_size) for _ in range(load.input)] for _ in range(load.batch)]
