"""What a compilation is asked for, checked as far as that can be done without the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from compiler.backend_trt import BuildOptions
from compiler.frontends import Limits
from compiler.passes import ChangeDType, Pass, spell
from compiler.plugins import load_plugins
from compiler.trt_network.library import load_library
from llmc.compiling.calibration import CalibrationSettings, calibration_settings
from llmc.compiling.targets import resolve_targets
from llmc.dtypes import dtype_name
from llmc.dumps import dump_folder
from llmc.pipeline import Passes, compose
from runtime.engine_dir.engine_writer import check_place
from runtime.load.ignored_options import Case, ignored_notes

_BUILD_OPTIONS = {
    "compute-capability": "compute_capabilities",
    "optimization-level": "optimization_level",
    "profiling-verbosity": "profiling_verbosity",
    "batch-sizes": "batch_sizes",
    "prompt-sizes": "prompt_sizes",
    "capacities": "capacities",
    "workers": "workers",
}


class CompileOptions(TypedDict, total=False):
    """The options of `llmc.compile`, where they are explained."""

    passes: Passes
    target: str
    dtype: str | None
    max_batch: int
    max_input: int | None
    max_seq: int | None
    dummy_weights: bool
    build: BuildOptions | None
    dump_ir: str | Path | None
    plugins: Sequence[str | Path]
    explain: bool
    calib: str | Path | None
    calib_samples: int | None
    calib_length: int | None
    calib_seed: int


@dataclass(frozen=True)
class CompileRequest:
    """What a compilation is asked for.

    Attributes:
        model: the checkpoint's folder, or its id.
        place: the absolute path of the engine.
        stages: the pipeline.
        targets: the targets, each once.
        build: how TensorRT engines are built.
        limits: the largest batch, prompt and sequence.
        dummy_weights: whether weights are made up.
        dump: the absolute folder for the graph's text; None for no text.
        explain: whether to gather what the passes did.
        calibration: what passes calibrate with.
        notes: sentences for the user.
    """

    model: str | Path
    place: Path
    stages: tuple[Pass, ...]
    targets: tuple[str, ...]
    build: BuildOptions
    limits: Limits
    dummy_weights: bool
    dump: Path | None
    explain: bool
    calibration: CalibrationSettings
    notes: tuple[str, ...]


def compile_request(
    model: str | Path,
    output: str | Path | None,
    *,
    make_folder: bool,
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
) -> CompileRequest:
    """The request that the arguments of `llmc.compile` make; they are explained there, and so are its errors.

    Args:
        model: the checkpoint.
        output: the engine directory; None for the default.
        make_folder: whether to make the folder that the engine will lie in.
    """
    plugin_notes = load_plugins(plugins)
    targets, note = resolve_targets(target)
    for name in targets:
        if name != "torch":
            load_library(name)
    build = build or BuildOptions()
    dtype = dtype_name(dtype)
    stages = compose(passes, dtype)
    place = check_place(Path(output) if output is not None else default_output(model), make_folder=make_folder)
    cases = _without_tensorrt(targets, build), _with_dtype_twice(stages, dtype)
    return CompileRequest(
        model=model,
        place=place,
        stages=stages,
        targets=targets,
        build=build,
        limits=Limits(max_batch, max_input, max_seq),
        dummy_weights=dummy_weights,
        dump=dump_folder(dump_ir, place),
        explain=explain,
        calibration=calibration_settings(calib, calib_samples, calib_length, calib_seed),
        notes=(*plugin_notes, *filter(None, [note]), *ignored_notes(*cases)),
    )


def _without_tensorrt(targets: Sequence[str], build: BuildOptions) -> Case:
    """The options of plans, where there are none."""
    usual = BuildOptions()
    return Case(
        set(targets) == {"torch"},
        "no TensorRT engine is built (--target tensorrt-rtx builds one)",
        {f"--{name}": getattr(build, field) != getattr(usual, field) for name, field in _BUILD_OPTIONS.items()},
    )


def _with_dtype_twice(stages: Sequence[Pass], dtype: str | None) -> Case:
    """The option --dtype, which a pass of the same purpose comes after."""
    passes = [stage for stage in stages if isinstance(stage, ChangeDType)]
    later = spell(passes[-1]) if passes else ""
    return Case(len(passes) > 1, f"the pass {later} comes after it and decides", {"--dtype": dtype is not None})


def without_calibration(settings: CalibrationSettings, *, used: bool) -> Case:
    """The options of calibration, where no pass has used any."""
    return Case(not used, "no pass calibrates", {f"--{name}": given for name, given in settings.given.items()})


def default_output(model: str | Path) -> Path:
    """Where the engine of a model goes if nothing is said: `NAME.engine` in the current folder."""
    return Path(f"{Path(model).expanduser().resolve().name or 'model'}.engine")
