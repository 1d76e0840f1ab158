"""From a checkpoint to an engine directory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.backend_trt import BuildOptions
from compiler.frontends import Checkpoint
from compiler.ir.graph import Graph
from compiler.passes.quant.report import FidelityReport
from llmc.compiling.checkpoint_digest import source_digest
from llmc.compiling.dry_pipeline import NeedsDataError, calibrates, dry_pipeline
from llmc.compiling.emit import capabilities, emit
from llmc.compiling.job import Job, export_tokenizer, lift_model
from llmc.compiling.manifest_draft import describe_engine, used_plugins
from llmc.compiling.outline import checked_outline
from llmc.compiling.request import CompileRequest, compile_request, without_calibration
from llmc.inspection.plan_facts import plan_names
from llmc.pipeline import Passes, rewrite
from llmc.progress import Phase, Progress, Stages, counter
from llmc.version import __version__
from runtime.engine_dir.engine_writer import EngineWriter, engine_writer
from runtime.engine_dir.manifest import Manifest, NoTokenizer, Source
from runtime.load.ignored_options import ignored_notes

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

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object; the keys are in docs/cli.md."""
        return {
            "path": str(self.path),
            "manifest": self.manifest.to_json(),
            "timings": dict(self.timings),
            "pass_timings": dict(self.pass_timings),
            "notes": list(self.notes),
            "explanation": self.explanation,
            "fidelity": self.fidelity.to_json(),
            "plans": {target: list(names) for target, names in self.plans.items()},
        }


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
        plugins: Python files that register passes, ops or families of models; what installed packages offer is there
            in any case.
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
    job = Job(Stages(progress))
    request = compile_request(
        model,
        output,
        make_folder=True,
        passes=passes,
        target=target,
        dtype=dtype,
        max_batch=max_batch,
        max_input=max_input,
        max_seq=max_seq,
        dummy_weights=dummy_weights,
        build=build,
        dump_ir=dump_ir,
        plugins=plugins,
        explain=explain,
        calib=calib,
        calib_samples=calib_samples,
        calib_length=calib_length,
        calib_seed=calib_seed,
    )
    job.notes += request.notes
    lifted = lift_model(job, request)
    calibration = lifted.calibration
    with job.stage("rewrite"), calibration.active():
        if calibrates(request.stages):
            job.progress(Phase("rewrite", "a trial without data"), 0, 0)
            with suppress(NeedsDataError):  # of a pass without a dry run, it is not known what it makes
                dry = dry_pipeline(lifted.graph, request.stages)
                checked_outline(dry.graph, request.targets, request.build, request.place)
        rewritten = rewrite(lifted.graph, request.stages, dump_ir=request.dump, explain=explain, progress=job.progress)
    job.notes += rewritten.notes
    job.notes += ignored_notes(without_calibration(request.calibration, used=calibration.used))
    outline = checked_outline(rewritten.graph, request.targets, request.build, request.place)
    manifest = replace(
        describe_engine(rewritten.graph, pipeline=rewritten.canonical, version=__version__),
        plugins=used_plugins(rewritten.graph, request.stages),
        tokens=lifted.tokens,
        fidelity=calibration.report.to_json() if calibration.report.entries else {},
    )
    with engine_writer(request.place, outline.needed) as writer:
        manifest = _write(job, writer, manifest, rewritten.graph, lifted.checkpoint, request)
    return Compiled(
        request.place,
        manifest,
        job.timings,
        rewritten.timings,
        tuple(job.notes),
        rewritten.explanation,
        plan_names(request.place, manifest),
        calibration.report,
    )


def _write(
    job: Job, writer: EngineWriter, manifest: Manifest, graph: Graph, checkpoint: Checkpoint, request: CompileRequest
) -> Manifest:
    """Write every file of the engine, the manifest last, and put it at its place."""
    tokenizer = export_tokenizer(job, checkpoint, writer.folder)
    files = emit(graph, request.targets, writer.folder, options=request.build, stage=job.stage)
    with job.stage("source digest") as report:
        digest = source_digest(checkpoint, report)
    complete = replace(
        manifest,
        source=Source(checkpoint.folder.resolve().name, digest, checkpoint.dummy_weights),
        targets=files,
        capabilities=capabilities(graph, request.build) if len(files) > 1 else (),
        tokenizer=None if isinstance(tokenizer, NoTokenizer) else tokenizer,
        no_tokenizer=tokenizer if isinstance(tokenizer, NoTokenizer) else None,
    )
    with job.stage("engine digest") as report:
        total = sum(path.stat().st_size for path in writer.folder.iterdir())
        return writer.commit(complete, counter(report, total))
