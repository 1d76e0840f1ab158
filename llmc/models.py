"""Opening and lifting models by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compiler.ir.graph import Graph


def lift(
    model: str | Path,
    *,
    dummy_weights: bool = False,
    weights: str | Path | None = None,
    weights_format: str | None = None,
    scales: str | Path | None = None,
    max_batch: int = 8,
    max_input: int | None = None,
    max_seq: int | None = None,
    plugins: Sequence[str | Path] = (),
    note: Callable[[str], None] | None = None,
) -> Graph:
    """The step graph of a model, before any pass. Only headers of its files are read.

    Args:
        model: a checkpoint of any layout (docs/checkpoints.md), or an id of the hub.
        dummy_weights: whether to make weights up, so that `config.json` suffices.
        weights: a file of weights, instead of those in the folder.
        weights_format: how weights are stored where no file says it, such as `gptq:bits=4:group=128`.
        scales: a file of scales of AMMO or ModelOpt, which weights, inputs and caches are quantized with.
        max_batch: how many sequences a step takes at most.
        max_input: how many new tokens per row; `max_seq` if None.
        max_seq: how many tokens per row, prompt and new ones together; the model's context length if None.
        plugins: Python files that register families of models; what installed packages offer is there in any case.
        note: called with a sentence about each thing that is odd but harmless; a warning if None.

    Raises:
        ConfigError: if the model, or one of its variants, is not supported, or the limits do not fit it.
        CheckpointError: if its files are missing or damaged, or not those that its config describes.
    """
    from compiler.frontends import Limits, open_checkpoint
    from compiler.frontends import lift as lift_checkpoint
    from compiler.frontends.source_options import source_options
    from compiler.plugins import load_plugins
    from llmc.naming import checkpoint_folder

    notes = load_plugins(plugins)
    source = source_options(weights, weights_format, scales)
    checkpoint = open_checkpoint(checkpoint_folder(model), dummy_weights=dummy_weights, source=source)
    graph = lift_checkpoint(checkpoint, limits=Limits(max_batch, max_input, max_seq))
    for text in [*notes, *checkpoint.notes]:
        (note or warnings.warn)(text)
    return graph
