"""From a checkpoint to an engine directory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import llmc
from compiler.backend_trt import BuildOptions
from compiler.frontends import Checkpoint, Limits, open_checkpoint
from compiler.frontends import lift as lift_checkpoint
from compiler.ir.graph import Graph
from compiler.passes.quant.report import FidelityReport
from compiler.trt.library import load_library
from llmc.calibrating import calibration_settings
from llmc.checkpoint_digest import source_digest
from llmc.dtypes import dtype_name
from llmc.dumps import dump_folder
from llmc.emitting import capabilities, check_targets, emit
from llmc.engine_facts import describe_engine
from llmc.naming import checkpoint_folder
from llmc.pipeline import Passes, compose, load_plugins, rewrite
from llmc.plan_facts import plan_names
from llmc.progress import Phase, Progress, Report, Stages, counter
from llmc.rehearsing import calibrates, rehearse
from llmc.room import needed_bytes, plan_count
from llmc.special_tokens import generation_notes, special_tokens
from llmc.targets import resolve_targets
from llmc.tokenizer import write_tokenizer
from runtime.engine_writer import EngineWriter, check_place, check_room, engine_writer
from runtime.manifest import Manifest, Source

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Compiled:
    """A compiled engine.

    Attributes:
        path: the engine directory.
        manifest: what it says about itself.
        timings: seconds by stage, in order.
        pass_timings: seconds by pass, in order: what the stage `rewrite` consists of.
        notes: what the user may want to know, one sentence each.
        explanation: what the passes did, and where rules declined; empty unless asked for.
        plans: the names of the plans of each TensorRT target.
        fidelity: what quantization does to the outputs of each op, measured on calibration data.
    """

    path: Path
    manifest: Manifest
    timings: Mapping[str, float]
    pass_timings: Mapping[str, float]
    notes: tuple[str, ...]
    explanation: str
    plans: Mapping[str, tuple[str, ...]]
    fidelity: FidelityReport = field(default_factory=FidelityReport)


@dataclass
class _Job:
    """What accumulates while an engine is made."""

    progress: Stages
    timings: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[Report]:
        """Time a stage; yields its own progress function."""
        started = time.perf_counter()
        with self.progress.stage(name) as report:
            yield report
        self.timings[name] = time.perf_counter() - started


def compile(
    model: str | Path,
    output: str | Path | None = None,
    *,
    passes: Passes = "",
    target: str = "auto",
    dtype: str | None = None,
    max_batch: int = 8,
    max_input: int | None = None,
    max_seq: int | None = None,
    dummy_weights: bool = False,
    build: BuildOptions | None = None,
    dump_ir: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    explain: bool = False,
    calib: str | Path | None = None,
    calib_samples: int | None = None,
    calib_length: int | None = None,
    calib_seed: int = 0,
    progress: Progress | None = None,
) -> Compiled:
    """Compile a checkpoint into an engine directory.

    Whatever can be wrong with the request is found before any weight is read. The engine appears at its place when it
    is complete, or not at all; an engine that is there already is replaced then.

    Args:
        model: a folder in the Hugging Face layout, or an id of the hub.
        output: the engine directory; `NAME.engine` in the current folder, after the model's name, if None.
        passes: rewrites in the order given: a text such as `quant=awq,tp=2`, or a list of passes and such texts;
            `llmc passes` lists those that have names.
        target: `auto`, `torch`, `tensorrt-rtx`, `tensorrt`, or a list of targets separated by commas.
        dtype: the element type to compute in: `float32`, `float16` or `bfloat16`; the checkpoint's own if None.
        max_batch: how many sequences the engine runs at once.
        max_input: how many tokens a prompt may have; `max_seq` if None.
        max_seq: how many tokens a sequence may have, prompt and new ones; the model's context length if None.
        dummy_weights: whether to make weights up, so that `config.json` suffices.
        build: how TensorRT engines are built.
        dump_ir: a folder for the graph's text after lifting and after each pass.
        plugins: Python files that register passes.
        explain: whether to gather what the passes did, and why rules declined.
        calib: a text to calibrate with, or documents, one a line of JSON (`.jsonl`), for passes that do; the text that
            comes with the compiler if None.
        calib_samples: how many windows of it to use; as many as it has, up to 128, if None.
        calib_length: how many tokens a window has; 512, or `max_input` if that is less, if None.
        calib_seed: decides which windows are used, if there are more.
        progress: called as work proceeds; see `llmc.progress.Progress`.

    Raises:
        LlmcError: one of its kinds, naming the file, key, tensor or pass, and the mend.
    """
    job = _Job(Stages(progress))
    load_plugins(plugins)
    build = build or BuildOptions()
    targets, note = resolve_targets(target)
    for name in targets:
        if name != "torch":
            load_library(name)
    stages = compose(passes, dtype_name(dtype))
    place = check_place(Path(output) if output is not None else default_output(model))
    dump = dump_folder(dump_ir, place)
    settings = calibration_settings(calib, calib_samples, calib_length, calib_seed)
    job.notes += [note] if note else []

    with job.stage("lift"):
        checkpoint = open_checkpoint(checkpoint_folder(model), dummy_weights=dummy_weights)
        lifted = lift_checkpoint(checkpoint, limits=Limits(max_batch, max_input, max_seq))
        tokens = special_tokens(str(lifted.facts["family"]), checkpoint.config, checkpoint.generation_config)
    job.notes += [*checkpoint.notes, *generation_notes(checkpoint.generation_config)]
    vocabulary = int(str(lifted.facts["vocab_size"])) if checkpoint.dummy_weights else None
    calibration = settings.source(checkpoint.folder, job.progress, made_up=vocabulary)
    calibration.check(lifted)
    with job.stage("rewrite"), calibration.active():
        if calibrates(stages):
            job.progress(Phase("rewrite", "a trial without data"), 0, 0)
            if (rehearsed := rehearse(lifted, stages)) is not None:
                _check(rehearsed, targets, build, place)
        rewritten = rewrite(lifted, stages, dump_ir=dump, explain=explain, progress=job.progress)
    needed = _check(rewritten.graph, targets, build, place)
    manifest = replace(
        describe_engine(rewritten.graph, pipeline=rewritten.canonical, version=llmc.__version__),
        tokens=tokens,
        fidelity=calibration.report.to_json() if calibration.report.entries else {},
    )
    with engine_writer(place, needed) as writer:
        manifest = _write(job, writer, manifest, rewritten.graph, checkpoint, targets, build)
    return Compiled(
        place,
        manifest,
        job.timings,
        rewritten.timings,
        tuple(job.notes),
        rewritten.explanation,
        plan_names(place, manifest),
        calibration.report,
    )


def default_output(model: str | Path) -> Path:
    """Where the engine of a model goes if nothing is said: `NAME.engine` in the current folder."""
    return Path(f"{Path(model).expanduser().resolve().name or 'model'}.engine")


def _check(graph: Graph, targets: Sequence[str], build: BuildOptions, place: Path) -> int:
    """How many bytes the engine of a graph will take, about; TargetError or EngineError if it cannot be built there."""
    check_targets(graph, targets, build)
    needed = needed_bytes(graph, plan_count(graph, targets, build))
    check_room(place.parent, needed)
    return needed


def _write(
    job: _Job,
    writer: EngineWriter,
    manifest: Manifest,
    graph: Graph,
    checkpoint: Checkpoint,
    targets: Sequence[str],
    build: BuildOptions,
) -> Manifest:
    """Write every file of the engine, the manifest last, and put it at its place."""
    with job.stage("tokenizer"):
        tokenizer = write_tokenizer(checkpoint.folder, writer.folder, job.notes.append)
    files = emit(graph, targets, writer.folder, options=build, stage=job.stage)
    with job.stage("source digest") as report:
        digest = source_digest(checkpoint, report)
    complete = replace(
        manifest,
        source=Source(checkpoint.folder.resolve().name, digest, checkpoint.dummy_weights),
        targets=files,
        capabilities=capabilities(graph, build) if len(files) > 1 else (),
        tokenizer=tokenizer,
    )
    with job.stage("engine digest") as report:
        total = sum(path.stat().st_size for path in writer.folder.iterdir())
        return writer.commit(complete, counter(report, total))
