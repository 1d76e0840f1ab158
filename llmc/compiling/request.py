"""What a compilation is asked for, checked as far as that can be done without the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.frontends import Limits
from compiler.frontends.source_options import SourceOptions, source_options
from compiler.passes import ChangeDType, Pass, spell
from compiler.plugins import load_plugins
from compiler.targets import Target
from llmc.compiling.calibration import CalibrationSettings, calibration_settings
from llmc.compiling.dry_pipeline import calibrates
from llmc.compiling.options import CompileOptions
from llmc.compiling.targets import resolve_targets
from llmc.dtypes import dtype_name
from llmc.dumps import dump_folder
from llmc.pipeline import compose
from runtime.engine_dir.engine_writer import check_place
from runtime.load.ignored_options import Case, ignored_notes


@dataclass(frozen=True)
class CompileRequest:
    """What a compilation is asked for.

    Attributes:
        model: the checkpoint's folder, or its id.
        place: the absolute path of the engine.
        pipeline: the passes.
        targets: the targets by name, those that every engine has first.
        limits: the largest batch, prompt and sequence.
        dummy_weights: whether weights are made up.
        source: what is said of the checkpoint's weights.
        dump: the absolute folder for the graph's text; None for no text.
        fold_layers: whether it leaves out layers that are as others.
        explain: whether to gather what the passes did.
        calibration: what passes calibrate with.
        notes: sentences for the user.
    """

    model: str | Path
    place: Path
    pipeline: tuple[Pass, ...]
    targets: Mapping[str, Target]
    limits: Limits
    dummy_weights: bool
    source: SourceOptions
    dump: Path | None
    fold_layers: bool
    explain: bool
    calibration: CalibrationSettings
    notes: tuple[str, ...]


def compile_request(
    model: str | Path, output: str | Path | None, options: CompileOptions, *, make_folder: bool
) -> CompileRequest:
    """The request that options make; they are explained in `CompileOptions`, and their errors in `llmc.compile`.

    Args:
        model: the checkpoint.
        output: the engine directory; None for the default.
        options: the options.
        make_folder: whether to make the folder that the engine will lie in.
    """
    plugin_notes = load_plugins(options.plugins)
    targets, target_notes = resolve_targets(options.target, options.target_options)
    for target in targets.values():
        target.require_tools()
    dtype = dtype_name(options.dtype)
    pipeline = compose(options.passes, dtype, options.prompts)
    place = check_place(Path(output) if output is not None else default_output(model), make_folder=make_folder)
    return CompileRequest(
        model=model,
        place=place,
        pipeline=pipeline,
        targets=targets,
        limits=Limits(options.max_batch, options.max_input, options.max_seq),
        dummy_weights=options.dummy_weights,
        source=source_options(options.weights, options.weights_format, options.scales),
        dump=dump_folder(options.dump_ir, place),
        fold_layers=options.fold_layers,
        explain=options.explain,
        calibration=calibration_settings(
            options.calib, options.calib_samples, options.calib_length, options.calib_seed, options.report
        ),
        notes=(
            *plugin_notes,
            *target_notes,
            *ignored_notes(_with_dtype_twice(pipeline, dtype), _of_dummies(options)),
        ),
    )


def _with_dtype_twice(pipeline: Sequence[Pass], dtype: str | None) -> Case:
    """The option --dtype, which a pass of the same purpose comes after."""
    passes = [step for step in pipeline if isinstance(step, ChangeDType)]
    later = spell(passes[-1]) if passes else ""
    return Case(len(passes) > 1, f"the pass {later} comes after it and decides", {"--dtype": dtype is not None})


def _of_dummies(options: CompileOptions) -> Case:
    """What is said of weights that are made up."""
    given = {"--weights": options.weights is not None, "--weights-format": options.weights_format is not None}
    return Case(options.dummy_weights, "weights are made up", {**given, "--scales": options.scales is not None})


def without_calibration(settings: CalibrationSettings, *, used: bool) -> Case:
    """The options of calibration, where no pass has used any."""
    return Case(not used, "no pass calibrates", {f"--{name}": given for name, given in settings.given.items()})


def without_quantization(settings: CalibrationSettings, pipeline: Sequence[Pass]) -> Case:
    """The option of the error report, where no pass quantizes."""
    return Case(not calibrates(pipeline), "no pass quantizes", {"--report": settings.report != "quick"})


def default_output(model: str | Path) -> Path:
    """Where the engine of a model goes if nothing is said: `NAME.engine` in the current folder."""
    path = Path(model).expanduser().resolve()
    return Path(f"{(path.stem if path.is_file() else path.name) or 'model'}.engine")
