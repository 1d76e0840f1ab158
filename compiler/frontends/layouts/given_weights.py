"""What a user says of a checkpoint's weights, followed: a file beside its folder, a format that no file names."""

from __future__ import annotations

from pathlib import Path

from compiler.errors import CheckpointError, RequestError
from compiler.frontends.checkpoint import Checkpoint, StoredWeights
from compiler.frontends.json_file import read_object
from compiler.frontends.layouts.file_names import named_from
from compiler.frontends.layouts.given_scales import apply_scales
from compiler.frontends.layouts.registry import HUGGING_FACE
from compiler.frontends.layouts.spellings import respelled, spell
from compiler.frontends.safetensors_file import read_safetensors
from compiler.frontends.source_options import SourceOptions
from compiler.frontends.torch_file import read_torch_file

_OF_ITS_LAYOUT = ("tensorrt-llm",)
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def follow(source: SourceOptions, checkpoint: Checkpoint, layout: str) -> None:
    """Take a checkpoint's weights as the user says.

    Raises:
        CheckpointError: if there is no such file.
        RequestError: if the checkpoint's layout has nothing to do with what is said.
    """
    said = source.weights_format
    if said is not None and said.name != layout and (said.name in _OF_ITS_LAYOUT or layout != HUGGING_FACE):
        raise RequestError(
            f"--weights-format {said.name} is not for {checkpoint.folder}, which is of the layout {layout}",
            hint="leave it out",
        )
    for option, file in (("--weights", source.weights), ("--scales", source.scales)):
        if file is None:
            continue
        if layout != HUGGING_FACE:
            raise RequestError(
                f"{option} {file} needs a checkpoint in the Hugging Face layout beside it; {checkpoint.folder} is of "
                f"the layout {layout}",
                hint=f"leave {option} out, or give the folder of the original checkpoint",
            )
        if not file.is_file():
            raise CheckpointError(f"there is no file {str(file)!r}", hint=f"give {option} a file")
    if source.weights is not None:
        path = source.weights
        if path.suffix not in _SUFFIXES:
            raise CheckpointError(f"{path} is no file of weights: its name ends in none of {', '.join(_SUFFIXES)}")
        checkpoint.replace_weights(lambda: _read(checkpoint.folder, path))
    checkpoint.source = source
    if source.scales is not None:
        apply_scales(source.scales, checkpoint)


def _read(folder: Path, path: Path) -> StoredWeights:
    """The tensors of a file that may lie anywhere; CheckpointError if it is damaged."""
    file = named_from(folder, path)
    found = read_safetensors(path, file) if path.suffix == ".safetensors" else read_torch_file(path, file)
    _, rename = respelled(read_object(folder / "config.json"))
    return StoredWeights((file,), spell(found, rename))
