"""`llmc export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmc.cli import options
from llmc.cli.console import Console, note, table, terminal_width
from llmc.exporting.options import DEFAULT_SHARD_SIZE

if TYPE_CHECKING:
    from llmc.exporting.driver import Exported


def export_command(
    model: Annotated[
        str, typer.Argument(help="A checkpoint of any layout, an id of the hub, or an engine of one rank.")
    ],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            help="safetensors: weights that are not quantized; compressed-tensors: int4, int8 and fp8 weights, int8 "
            "and fp8 inputs and caches; gptq: weights in 4 or 8 bits; awq: weights in 4 bits.",
        ),
    ] = "safetensors",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The folder to write; NAME-FORMAT if not given."),
    ] = None,
    passes: options.Passes = "",
    dtype: options.DType = None,
    max_shard_size: Annotated[
        str,
        typer.Option(metavar="SIZE", help="How many bytes of tensors a file may hold, such as 5GB or 500MiB."),
    ] = DEFAULT_SHARD_SIZE,
    calib: options.Calib = None,
    calib_samples: options.CalibSamples = None,
    calib_length: options.CalibLength = None,
    calib_seed: options.CalibSeed = 0,
    report: options.Report = "quick",
    weights: options.Weights = None,
    weights_format: options.WeightsFormat = None,
    scales: options.Scales = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="For an engine of an older llmc: the config.json of its checkpoint."),
    ] = None,
    no_verify: options.NoVerify = False,
    plugin: options.Plugins = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write a checkpoint after passes, or an engine, as a checkpoint that other programs read.

    Nothing is added to the passes given. What the format cannot say is found before anything is calibrated. The folder
    appears when it is complete, or not at all; an earlier export that is there is replaced.

    \b
    llmc export my-checkpoint -f compressed-tensors -o my-int4 --passes quant=gptq:group=128
    llmc export my-checkpoint -f awq --passes quant=awq:group=128 --max-shard-size 2GB
    llmc export my-checkpoint -o my-bfloat16 --dtype bfloat16
    llmc export my.engine -f gptq -o from-engine
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    import llmc
    from llmc.exporting.options import ExportOptions

    request = ExportOptions(
        passes=passes,
        dtype=dtype,
        max_shard_size=max_shard_size,
        calib=calib,
        calib_samples=calib_samples,
        calib_length=calib_length,
        calib_seed=calib_seed,
        report=report,
        weights=weights,
        weights_format=weights_format,
        scales=scales,
        config=config,
        verify=not no_verify,
    )
    with Console(quiet=quiet or json_output, bars_only=json_output) as console:
        made = llmc.export(model, output, format, request, progress=console)
    if not quiet:
        for text in made.notes:
            note(text)
    if json_output:
        print(json.dumps(made.to_json(), indent=2))
    elif not quiet:
        print(_text(made))


def _text(made: Exported) -> str:
    """The checkpoint in a few lines."""
    from compiler.sizes import bytes_text

    path = made.path.relative_to(Path.cwd()) if made.path.is_relative_to(Path.cwd()) else made.path
    shards = sum(name.endswith(".safetensors") for name in made.files)
    quantized = list(filter(None, [made.fidelity.text(width=terminal_width())]))
    rows = [
        ("checkpoint", f"{path} ({bytes_text(made.bytes)} in {shards} file{'s' * (shards != 1)})"),
        (
            "format",
            f"{made.format}, {made.dtype}" + (f", {made.quantized} linears quantized" if made.quantized else ""),
        ),
        ("pipeline", made.pipeline or "no pass"),
        ("time", f"{sum(made.timings.values()):.2f} s"),
    ]
    return "\n".join([*quantized, table(rows, wrap=False)])
