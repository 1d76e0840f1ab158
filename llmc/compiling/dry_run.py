"""What a compilation would make, without making it: no weight is read, nothing is calibrated, no engine is written."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack

from compiler.ir.graph import Graph
from compiler.ir.trace import Trace
from compiler.progress import Progress
from llmc.compiling.dry_pipeline import calibrates, dry_pipeline
from llmc.compiling.job import Job, export_tokenizer, lift_model
from llmc.compiling.manifest_draft import describe_engine, used_plugins
from llmc.compiling.options import CompileKeywords, CompileOptions
from llmc.compiling.outline import checked_outline, nearest_folder
from llmc.compiling.request import CompileRequest, compile_request, without_calibration, without_quantization
from llmc.pipeline import Rewritten, rewritten
from llmc.progress import Phase, Phases
from llmc.step_cost import StepBytes, step_bytes
from llmc.version import __version__
from runtime.engine_dir.manifest import Manifest, Source
from runtime.load.ignored_options import ignored_notes


@dataclass(frozen=True)
class DryRun:
    """What a compilation would make.

    Attributes:
        path: where the engine would be.
        manifest: what it would say about itself, without its files and digests.
        graph: the graph after all passes. Weights and scales that calibration decides are placeholders in it, of the
            right shapes and types.
        targets: the targets that it would be built for.
        plans: the names of the execution plans of the first rank, by target.
        needed_bytes: about how much disk space it would take while it is written.
        free_bytes: how much there is.
        timings: seconds by phase, in order.
        pass_timings: seconds by pass, in order.
        notes: what the user may want to know, one sentence each.
        explanation: what the passes did, and where rules declined; empty unless asked for.
    """

    path: Path
    manifest: Manifest
    graph: Graph
    targets: tuple[str, ...]
    plans: Mapping[str, Sequence[str]]
    needed_bytes: int
    free_bytes: int
    timings: Mapping[str, float]
    pass_timings: Mapping[str, float]
    notes: tuple[str, ...]
    explanation: str

    @property
    def step(self) -> StepBytes:
        """What a decode step would read from memory at least."""
        return step_bytes(self.graph)

    def to_json(self) -> dict[str, Any]:
        """All but the graph as a JSON object; the keys are in docs/cli.md."""
        said = self.manifest.to_json()
        return {
            "dry_run": True,
            "path": str(self.path),
            **{key: said[key] for key in ("model", "mesh", "dtype", "limits", "pipeline")},
            "dummy_weights": self.manifest.source.dummy_weights,
            "targets": list(self.targets),
            "plans": {target: list(names) for target, names in self.plans.items()},
            "needed_bytes": self.needed_bytes,
            "free_bytes": self.free_bytes,
            "step_bytes": asdict(self.step),
            "timings": dict(self.timings),
            "pass_timings": dict(self.pass_timings),
            "notes": list(self.notes),
            "explanation": self.explanation,
        }


def dry_run(
    model: str | Path,
    output: str | Path | None = None,
    options: CompileOptions | None = None,
    *,
    progress: Progress | None = None,
    **changes: Unpack[CompileKeywords],
) -> DryRun:
    """Check everything that `llmc.compile` checks, and tell what it would make. The arguments are the same.

    The passes run on the graph, with placeholders for what calibration decides; `dump_ir` gets the graph after each.
    Neither the place of the engine nor an engine that is there is touched.

    Raises:
        LlmcError: as `llmc.compile` would, before it reads weights or data; a PassError, too, if a pass of somebody
            else needs data, so that it cannot be told what it makes.
    """
    job = Job(Phases(progress))
    options = (options or CompileOptions()).changed(changes)
    request = compile_request(model, output, options, make_folder=False)
    job.notes += request.notes
    lifted = lift_model(job, request)
    with job.phase("rewrite"):
        made = _rewritten(job, request, lifted.graph)
    job.notes += made.notes
    settings = request.calibration
    job.notes += ignored_notes(
        without_calibration(settings, used=calibrates(request.pipeline)),
        without_quantization(settings, request.pipeline),
    )
    outline = checked_outline(made.graph, request.targets, request.place)
    with TemporaryDirectory() as folder:
        export_tokenizer(job, lifted.checkpoint, Path(folder))
    manifest = replace(
        describe_engine(made.graph, pipeline=made.canonical, version=__version__),
        plugins=used_plugins(made.graph, request.pipeline, request.targets),
        tokens=lifted.tokens,
        generation=lifted.generation.stored,
        capabilities=outline.compute_capabilities,
        source=Source(lifted.checkpoint.path.resolve().name, "", request.dummy_weights),
    )
    return DryRun(
        path=request.place,
        manifest=manifest,
        graph=made.graph,
        targets=tuple(request.targets),
        plans=outline.plans,
        needed_bytes=outline.needed,
        free_bytes=shutil.disk_usage(nearest_folder(request.place)).free,
        timings=job.timings,
        pass_timings=made.timings,
        notes=tuple(job.notes),
        explanation=made.explanation,
    )


def _rewritten(job: Job, request: CompileRequest, graph: Graph) -> Rewritten:
    """What the pipeline makes of a graph, as far as it can be told without data."""

    def on_pass(spelling: str, index: int, count: int) -> None:
        job.progress(Phase("rewrite", spelling), index, count)

    trace = Trace()
    folding = request.fold_layers
    result = dry_pipeline(
        graph, request.pipeline, dump_dir=request.dump, on_pass=on_pass, trace=trace, fold_layers=folding
    )
    return rewritten(result, trace if request.explain else None)
