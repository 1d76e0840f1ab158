"""`llmc lift`."""

from __future__ import annotations

from typing import Annotated

import typer

from llmc.cli import options
from llmc.cli.console import note


def lift_command(
    model: Annotated[
        str, typer.Argument(help="A checkpoint (docs/checkpoints.md lists layouts), or an id of the hub.")
    ],
    output: options.GraphOutput = None,
    max_batch: options.MaxBatch = 8,
    max_input: options.MaxInput = None,
    max_seq: options.MaxSeq = None,
    dummy_weights: options.DummyWeights = False,
    weights: options.Weights = None,
    weights_format: options.WeightsFormat = None,
    scales: options.Scales = None,
    plugin: options.Plugins = None,
    fold_layers: options.FoldLayers = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show the graph of a checkpoint, before any pass: what llmc compile starts from.

    Only config.json and the headers of the weights are read, so that a checkpoint of any size answers at once.

    \b
    llmc lift examples/models/opt-tiny
    llmc lift my-checkpoint -o model.ir --max-seq 4096
    llmc lift my-checkpoint --dummy-weights | less
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    import llmc
    from llmc.opt import write_optimized

    notes: list[str] = []
    graph = llmc.lift(
        model,
        dummy_weights=dummy_weights,
        weights=weights,
        weights_format=weights_format,
        scales=scales,
        max_batch=max_batch,
        max_input=max_input,
        max_seq=max_seq,
        note=notes.append,
    )
    write_optimized(graph, options.file_or_none(output), fold_layers=fold_layers)
    if not quiet:
        for text in notes:
            note(text)
        if options.file_or_none(output) is not None:
            note(f"{output}: {len(graph.ops)} ops")
