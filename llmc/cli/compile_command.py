"""`llmc compile`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmc.cli import options
from llmc.cli.compiled_text import made_text, times_text
from llmc.cli.console import Console, note

if TYPE_CHECKING:
    from llmc.compiling.driver import Compiled
    from llmc.compiling.dry_run import DryRun


def compile_command(
    model: Annotated[
        str, typer.Argument(help="A checkpoint (docs/checkpoints.md lists layouts), or an id of the hub.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The engine directory; NAME.engine if not given."),
    ] = None,
    passes: options.Passes = "",
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=DIR",
            help="Virtual tokens for requests of a task: a PEFT adapter folder of prompt tuning, P-tuning or prefix "
            "tuning. May be repeated.",
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="auto, torch, tensorrt-rtx, tensorrt, or several with commas; llmc targets lists them with options of "
            "their own, as tensorrt-rtx:workers=1.",
        ),
    ] = "auto",
    dtype: options.DType = None,
    max_batch: options.MaxBatch = 8,
    max_input: options.MaxInput = None,
    max_seq: options.MaxSeq = None,
    compute_capability: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="The GPUs a TensorRT-RTX engine is for: all (8.0 and newer), or some of 7.5, 8.0, 8.6, 8.9, 12.0.",
        ),
    ] = "all",
    optimization_level: Annotated[
        int | None, typer.Option(metavar="0..5", help="TensorRT's optimization level; its own default if not given.")
    ] = None,
    profiling_verbosity: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL",
            help="What a TensorRT engine can tell of its layers: names (the default), detailed, none.",
        ),
    ] = None,
    batch_sizes: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Batches that get a TensorRT plan of their own: a step runs in the smallest that holds it. 1 and "
            "--max-batch always do; --max-batch divided by 8, again and again, if not given.",
        ),
    ] = None,
    prompt_sizes: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Pieces, in tokens, that TensorRT plans take prompts in by; sizes near those of the prompts waste "
            "least. --max-input, at most 2048, divided by 8, again and again down to 64, if not given; less for very "
            "long caches.",
        ),
    ] = None,
    capacities: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Lengths of caches, in tokens, that get TensorRT plans: short texts run faster in short caches, which "
            "grow. --max-seq always does; divided by 4, again and again down to 256, if not given.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="How many TensorRT plans to build at a time: fewer take less memory. All processors if not given.",
        ),
    ] = None,
    calib: options.Calib = None,
    calib_samples: options.CalibSamples = None,
    calib_length: options.CalibLength = None,
    calib_seed: options.CalibSeed = 0,
    report: options.Report = "quick",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check everything, and say what would be made (with --dump-ir the graphs, too), but read no weights, "
            "calibrate nothing and write no engine.",
        ),
    ] = False,
    dummy_weights: options.DummyWeights = False,
    weights: options.Weights = None,
    weights_format: options.WeightsFormat = None,
    scales: options.Scales = None,
    dump_ir: options.DumpIr = None,
    fold_layers: options.FoldLayers = False,
    plugin: options.Plugins = None,
    explain: options.Explain = False,
    timing: options.Timing = False,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Compile a checkpoint into an engine directory.

    The engine appears when it is complete, or not at all. An engine that is there already is replaced; any other
    folder is left alone. What can be wrong with the request is found before weights are read.

    \b
    llmc compile examples/models/opt-tiny
    llmc compile EleutherAI/pythia-160m -o pythia.engine --dtype bfloat16 --max-batch 16
    llmc compile my-checkpoint -o my.engine --target tensorrt-rtx --batch-sizes 1,8,64 --max-batch 64
    llmc compile my-checkpoint --passes quant=awq,tp=2 --dry-run --dump-ir dumps
    llmc compile my-checkpoint --weights gptq.safetensors --weights-format gptq:bits=4:group=128
    llmc compile my-checkpoint --prompts sentiment=adapters/sentiment --prompts topic=adapters/topic
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    import llmc
    from llmc.compiling.options import CompileOptions
    from runtime.load.ignored_options import Case, ignored_notes

    build = {
        "compute_capability": None if compute_capability == "all" else options.words(compute_capability),
        "optimization_level": optimization_level,
        "profiling_verbosity": profiling_verbosity,
        "batch_sizes": options.sizes("--batch-sizes", batch_sizes),
        "prompt_sizes": options.sizes("--prompt-sizes", prompt_sizes),
        "capacities": options.sizes("--capacities", capacities),
        "workers": workers,
    }
    request = CompileOptions(
        passes=passes,
        prompts=_prompts(prompts or ()),
        target=target,
        dtype=dtype,
        max_batch=max_batch,
        max_input=max_input,
        max_seq=max_seq,
        dummy_weights=dummy_weights,
        weights=weights,
        weights_format=weights_format,
        scales=scales,
        build={name: value for name, value in build.items() if value is not None},
        dump_ir=dump_ir,
        fold_layers=fold_layers,
        explain=explain,
        calib=calib,
        calib_samples=calib_samples,
        calib_length=calib_length,
        calib_seed=calib_seed,
        report=report,
    )
    make: Callable[..., Compiled | DryRun] = llmc.dry_run if dry_run else llmc.compile
    with Console(quiet=quiet or json_output, bars_only=json_output) as console:
        made = make(model, output, request, progress=console)
    in_vain = Case(dump_ir is None, "there are no dumps without --dump-ir", {"--fold-layers": fold_layers})
    if not quiet:
        for text in [*made.notes, *ignored_notes(in_vain)]:
            note(text)
    if json_output:
        print(json.dumps(made.to_json(), indent=2))
        return
    if explain:
        print(made.explanation)
    if timing:
        print(times_text(made.timings, made.pass_timings))
    if not quiet:
        print(made_text(made))


def _prompts(given: Sequence[str]) -> dict[str, str]:
    """The adapter folders by the names of their tasks."""
    folders: dict[str, str] = {}
    for text in given:
        name, sign, folder = text.partition("=")
        if not (name and sign and folder):
            raise typer.BadParameter(f"{text!r} is not TASK=DIR", param_hint="--prompts")
        if name in folders:
            raise typer.BadParameter(f"the task {name!r} is given twice", param_hint="--prompts")
        folders[name] = folder
    return folders
