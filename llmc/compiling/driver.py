"""From a checkpoint to an engine directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

from compiler.frontends import Checkpoint
from compiler.ir.graph import Graph
from compiler.passes.quant.report import QuantizationErrorReport
from compiler.progress import Progress
from llmc.compiling.checkpoint_digest import source_digest
from llmc.compiling.dry_pipeline import NeedsDataError, calibrates, dry_pipeline
from llmc.compiling.emit import emit
from llmc.compiling.job import Job, export_tokenizer, lift_model
from llmc.compiling.manifest_draft import describe_engine, used_plugins
from llmc.compiling.options import CompileKeywords, CompileOptions
from llmc.compiling.outline import checked_outline
from llmc.compiling.request import CompileRequest, compile_request, without_calibration, without_quantization
from llmc.pipeline import rewrite
from llmc.progress import Phase, Phases, counter
from llmc.step_cost import StepBytes, step_bytes
from llmc.version import __version__
from runtime.engine_dir.engine_writer import EngineWriter, engine_writer
from runtime.engine_dir.manifest import Manifest, NoTokenizer, Source
from runtime.load.ignored_options import ignored_notes


@dataclass(frozen=True)
class Compiled:
    """A compiled engine.

    Attributes:
        path: the engine directory.
        manifest: what it says about itself.
        timings: seconds by phase, in order.
        pass_timings: seconds by pass, in order: what the phase `rewrite` consists of.
        notes: what the user may want to know, one sentence each.
        explanation: what the passes did, and where rules declined; empty unless asked for.
        plans: the names of the execution plans of the first rank, by target.
        fidelity: what quantization does to the outputs of each op, measured on calibration data.
        step: what a decode step reads from memory at least.
    """

    path: Path
    manifest: Manifest
    timings: Mapping[str, float]
    pass_timings: Mapping[str, float]
    notes: tuple[str, ...]
    explanation: str
    plans: Mapping[str, Sequence[str]]
    fidelity: QuantizationErrorReport = field(default_factory=QuantizationErrorReport)
    step: StepBytes = field(default_factory=StepBytes)

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
            "step_bytes": asdict(self.step),
        }


def compile(
    model: str | Path,
    output: str | Path | None = None,
    options: CompileOptions | None = None,
    *,
    progress: Progress | None = None,
    **changes: Unpack[CompileKeywords],
) -> Compiled:
    """Compile a checkpoint into an engine directory, which is written whole or not at all.

        llmc.compile("my-checkpoint", "my.engine", passes="quant=awq,tp=2", max_batch=16)

    Args:
        model: a checkpoint of any layout (docs/checkpoints.md), or an id of the hub.
        output: the engine directory; `NAME.engine` in the current folder, after the model's name, if None.
        options: how it is compiled.
        progress: called as work proceeds; see `compiler.progress.Progress`.
        changes: options by name, instead of those in `options`; `CompileOptions` explains them.

    Raises:
        LlmcError: one of its kinds, naming the file, key, tensor or pass, and the mend.
    """
    job = Job(Phases(progress))
    options = (options or CompileOptions()).changed(changes)
    request = compile_request(model, output, options, make_folder=True)
    job.notes += request.notes
    lifted = lift_model(job, request)
    calibration = lifted.calibration
    with job.phase("rewrite"), calibration.active():
        if calibrates(request.pipeline):
            job.progress(Phase("rewrite", "a dry run"), 0, 0)
            with suppress(NeedsDataError):  # of a pass without a dry run, it is not known what it makes
                dry = dry_pipeline(lifted.graph, request.pipeline)
                checked_outline(dry.graph, request.targets, request.place)
        rewritten = rewrite(
            lifted.graph,
            request.pipeline,
            dump_ir=request.dump,
            explain=request.explain,
            fold_layers=request.fold_layers,
            progress=job.progress,
        )
    job.notes += rewritten.notes
    settings = request.calibration
    job.notes += ignored_notes(
        without_calibration(settings, used=calibration.used), without_quantization(settings, request.pipeline)
    )
    outline = checked_outline(rewritten.graph, request.targets, request.place)
    manifest = replace(
        describe_engine(rewritten.graph, pipeline=rewritten.canonical, version=__version__),
        plugins=used_plugins(rewritten.graph, request.pipeline, request.targets),
        tokens=lifted.tokens,
        generation=lifted.generation.stored,
        config=lifted.checkpoint.config,
        fidelity=calibration.report.to_json() if calibrates(request.pipeline) else {},
        capabilities=outline.compute_capabilities,
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
        outline.plans,
        calibration.report,
        step_bytes(rewritten.graph),
    )


def _write(
    job: Job, writer: EngineWriter, manifest: Manifest, graph: Graph, checkpoint: Checkpoint, request: CompileRequest
) -> Manifest:
    """Write every file of the engine, the manifest last, and put it at its place."""
    tokenizer = export_tokenizer(job, checkpoint, writer.folder)
    files = emit(graph, request.targets, writer.folder, phase=job.phase)
    with job.phase("source digest") as report:
        digest = source_digest(checkpoint, report)
    complete = replace(
        manifest,
        source=Source(checkpoint.path.resolve().name, digest, checkpoint.dummy_weights),
        targets=files,
        tokenizer=None if isinstance(tokenizer, NoTokenizer) else tokenizer,
        no_tokenizer=tokenizer if isinstance(tokenizer, NoTokenizer) else None,
    )
    with job.phase("engine digest") as report:
        total = sum(path.stat().st_size for path in writer.folder.iterdir())
        return writer.commit(complete, counter(report, total))
