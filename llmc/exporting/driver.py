"""Exporting a model: a checkpoint after passes, or an engine, as a checkpoint that other programs read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

from compiler.errors import ExportError, LlmcError
from compiler.exporters import ExportPlan, Format, find_format, plan_export, write_shards
from compiler.frontends import Limits, lift, open_checkpoint
from compiler.frontends.source_options import source_options
from compiler.ir.graph import Graph
from compiler.passes import Pass, parse_pipeline
from compiler.passes.quant.report import QuantizationErrorReport
from compiler.plugins import load_plugins
from compiler.progress import Progress
from llmc.compiling.calibration import CalibrationSettings, calibration_settings
from llmc.compiling.dry_pipeline import NeedsDataError, calibrates, dry_pipeline
from llmc.compiling.job import Job, LiftedModel, lift_model
from llmc.compiling.request import CompileRequest, without_calibration, without_quantization
from llmc.dtypes import dtype_name
from llmc.exporting.files import copy_files, write_generation_config
from llmc.exporting.folder import check_place, export_folder, write_json
from llmc.exporting.options import ExportKeywords, ExportOptions, shard_size
from llmc.exporting.source import open_engine_source
from llmc.pipeline import Rewritten, read_passes, rewrite
from llmc.progress import Phase, Phases
from runtime.engine_dir.manifest import opens_as_engine
from runtime.load.ignored_options import Case, ignored_notes

# The config, the tokenizer and the index: what a checkpoint takes besides its weights.
_BYTES_OF_THE_REST = 1 << 24


@dataclass(frozen=True)
class Exported:
    """An exported checkpoint.

    Attributes:
        path: its folder.
        format: the name of its format.
        pipeline: the passes that the model went through, in canonical spelling.
        dtype: the element type of what is not quantized.
        tensors: how many tensors it has.
        quantized: how many linears are quantized.
        bytes: the bytes of its tensors.
        files: the names of its files.
        timings: seconds by phase, in order.
        notes: what the user may want to know, one sentence each.
        fidelity: what quantization does to the outputs of each op, measured on calibration data.
    """

    path: Path
    format: str
    pipeline: str
    dtype: str
    tensors: int
    quantized: int
    bytes: int
    files: Sequence[str]
    timings: Mapping[str, float]
    notes: tuple[str, ...]
    fidelity: QuantizationErrorReport = field(default_factory=QuantizationErrorReport)

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object; the keys are in docs/export.md."""
        return {
            "path": str(self.path),
            "format": self.format,
            "pipeline": self.pipeline,
            "dtype": self.dtype,
            "tensors": self.tensors,
            "quantized": self.quantized,
            "bytes": self.bytes,
            "files": list(self.files),
            "timings": dict(self.timings),
            "notes": list(self.notes),
            "fidelity": self.fidelity.to_json(),
        }


@dataclass(frozen=True)
class _Made:
    """A graph that is ready to be exported, and what its checkpoint has besides weights."""

    graph: Graph
    config: Mapping[str, Any]
    pipeline: str
    source: str
    write_others: Callable[[Path], None]
    fidelity: QuantizationErrorReport = field(default_factory=QuantizationErrorReport)


def export(
    model: str | Path,
    output: str | Path | None = None,
    format: str = "safetensors",
    options: ExportOptions | None = None,
    *,
    progress: Progress | None = None,
    **changes: Unpack[ExportKeywords],
) -> Exported:
    """Write a model as a checkpoint in the Hugging Face layout, whole or not at all.

        llmc.export("my-checkpoint", "my-checkpoint-int4", "compressed-tensors", passes="quant=awq:group=128")

    Args:
        model: a folder in the Hugging Face layout, an id of the hub, or an engine of one rank.
        output: the folder to write; `NAME-FORMAT` in the current folder, after the model's name, if None.
        format: `safetensors` for weights that are not quantized, `compressed-tensors`, `gptq` or `awq`.
        options: how it is exported.
        progress: called as work proceeds; see `compiler.progress.Progress`.
        changes: options by name, instead of those in `options`; `ExportOptions` explains them.

    Raises:
        ExportError: if the format cannot say what the model is, before anything is calibrated, or the folder cannot be
            written.
        LlmcError: as `llmc.compile`, for what is wrong with the checkpoint, the passes or the engine.
    """
    job = Job(Phases(progress))
    options = (options or ExportOptions()).changed(changes)
    found, most = find_format(format), shard_size(options.max_shard_size)
    job.notes += load_plugins(options.plugins)
    folder = Path(model).expanduser()
    place = check_place(
        Path(output) if output is not None else default_output(model, format), folder if folder.exists() else None
    )
    made = _from_engine(job, folder, options) if opens_as_engine(folder) else _rewritten(job, model, options, found)
    plan = plan_export(made.graph, made.config, found)
    job.notes += plan.notes
    files = _write(job, plan, made, place, most, found)
    return Exported(
        path=place,
        format=found.name,
        pipeline=made.pipeline,
        dtype=next(str(plan.config[key]) for key in ("dtype", "torch_dtype") if key in plan.config),
        tensors=len(plan.tensors),
        quantized=plan.quantized,
        bytes=plan.nbytes,
        files=files,
        timings=job.timings,
        notes=tuple(dict.fromkeys(job.notes)),
        fidelity=made.fidelity,
    )


def default_output(model: str | Path, format: str) -> Path:
    """Where an exported model goes if nothing is said: `NAME-FORMAT` in the current folder."""
    name = Path(model).expanduser().resolve().name.removesuffix(".engine")
    return Path(f"{name or 'model'}-{format}")


def _from_engine(job: Job, folder: Path, options: ExportOptions) -> _Made:
    source = open_engine_source(job, folder, options)

    def write_others(place: Path) -> None:
        write_generation_config(source.manifest, place)
        copy_files(source.folder, place, source.config, job.notes.append)

    return _Made(source.graph, source.config, source.manifest.pipeline, source.manifest.source.folder, write_others)


def _rewritten(job: Job, model: str | Path, options: ExportOptions, found: Format) -> _Made:
    """A checkpoint after its passes."""
    dtype = dtype_name(options.dtype)
    pipeline = (*(parse_pipeline(f"dtype={dtype}") if dtype else ()), *read_passes(options.passes))
    lifted = lift_model(job, _request(model, options, pipeline))
    checkpoint, calibration = lifted.checkpoint, lifted.calibration
    with job.phase("rewrite"), calibration.active():
        if calibrates(pipeline):
            _rehearse(job, lifted, pipeline, found)
        rewritten: Rewritten = rewrite(lifted.graph, pipeline, progress=job.progress)
    job.notes += rewritten.notes
    settings = _settings(options)
    job.notes += ignored_notes(
        without_calibration(settings, used=calibration.used),
        without_quantization(settings, pipeline),
        Case(True, f"{model} has a config.json", {"--config": options.config is not None}),
    )
    return _Made(
        graph=rewritten.graph,
        config=checkpoint.config,
        pipeline=rewritten.canonical,
        source=checkpoint.folder.resolve().name,
        write_others=lambda folder: copy_files(checkpoint.folder, folder, checkpoint.config, job.notes.append),
        fidelity=calibration.report,
    )


def _settings(options: ExportOptions) -> CalibrationSettings:
    return calibration_settings(
        options.calib, options.calib_samples, options.calib_length, options.calib_seed, options.report
    )


def _rehearse(job: Job, lifted: LiftedModel, pipeline: Sequence[Pass], found: Format) -> None:
    """Refuse what the format cannot say before anything is calibrated."""
    job.progress(Phase("rewrite", "a dry run"), 0, 0)
    with suppress(NeedsDataError):  # of a pass without a dry run, it is not known what it makes
        dry = dry_pipeline(lifted.graph, pipeline)
        plan_export(dry.graph, lifted.checkpoint.config, found)


def _request(model: str | Path, options: ExportOptions, pipeline: tuple[Pass, ...]) -> CompileRequest:
    return CompileRequest(
        model=model,
        place=Path(),
        pipeline=pipeline,
        targets={},
        limits=Limits(),
        dummy_weights=False,
        source=source_options(options.weights, options.weights_format, options.scales),
        dump=None,
        fold_layers=False,
        explain=False,
        calibration=_settings(options),
        notes=(),
    )


def _write(job: Job, plan: ExportPlan, made: _Made, place: Path, most: int, found: Format) -> Sequence[str]:
    """Write every file of the checkpoint, read it back, and put it at its place."""
    with export_folder(place, plan.nbytes + _BYTES_OF_THE_REST) as folder:
        with job.phase("weights") as report:
            write_shards(plan, folder.path, most, report)
        with job.phase("files"):
            write_json(folder.path / "config.json", plan.config)
            made.write_others(folder.path)
        with job.phase("check"):
            _read_back(folder.path)
        return folder.commit({"checkpoint_format": found.name, "pipeline": made.pipeline, "source": made.source})


def _read_back(folder: Path) -> None:
    """See that llmc reads what it has written."""
    try:
        lift(open_checkpoint(folder))
    except LlmcError as error:
        raise ExportError(
            f"what was written cannot be read back: {error.message}", hint="this is a bug in llmc: please report it"
        ) from error
