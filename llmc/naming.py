"""What a path names, and what is said where something else was wanted."""

from __future__ import annotations

from pathlib import Path

from compiler.errors import CheckpointError, EngineError, GraphError, LlmcError
from compiler.suggest import folders_with, names_in
from runtime.engine_dir.manifest import MANIFEST, is_engine, read_manifest

_CONFIG = "config.json"
# Of files that belong to a checkpoint.
_SUFFIXES = (".bin", ".ini", ".json", ".model", ".pt", ".safetensors", ".yaml", ".yml")


def checkpoint_folder(model: str | Path) -> Path:
    """The path of the checkpoint that a path or an id of the hub names: a folder, or a file of layouts of one file.

    Raises:
        CheckpointError: if the path names something else, saying what, or there is neither a folder nor such an id.
    """
    from compiler.frontends import is_checkpoint, resolve_model

    given = Path(model).expanduser()
    if is_checkpoint(given):
        return given
    if given.is_file():
        raise _file_error(given)
    if given.is_dir():
        raise _folder_error(given)
    return resolve_model(str(model))


def dumped_graphs(folder: Path) -> list[Path]:
    """The graphs in a folder such as `--dump-ir` writes, in order; none if it is no such folder."""
    from compiler.frontends import is_checkpoint

    if is_engine(folder) or is_checkpoint(folder):
        return []
    return [folder / name for name in names_in(folder) if name.endswith(".ir") and (folder / name).is_file()]


def dumps_error(folder: Path, graphs: list[Path]) -> GraphError:
    """That a folder holds graphs, where one graph was wanted."""
    return GraphError(
        f"{folder} is a folder of graphs, not one graph",
        hint=f"give one of: {', '.join(str(graph) for graph in graphs)}",
    )


def whole_of_file(file: Path) -> tuple[str, Path] | None:
    """What a file is a part of, an engine or a checkpoint, and its folder; None if it is of neither."""
    if is_engine(file.parent):
        return "an engine", file.parent
    from compiler.frontends import is_checkpoint

    if file.suffix in _SUFFIXES and is_checkpoint(file.parent):
        return "a checkpoint", file.parent
    return None


def _file_error(file: Path) -> CheckpointError:
    whole = whole_of_file(file)
    if file.suffix == ".ir":
        return CheckpointError(
            f"{file} is a graph, not a checkpoint", hint="llmc opt rewrites a graph; a checkpoint is a folder"
        )
    if whole is None:
        return CheckpointError(
            f"{file} is a file, not a checkpoint", hint=f"give a folder that holds {_CONFIG}, or an id of the hub"
        )
    what, folder = whole
    hint = f"give its folder: {folder}" if what == "a checkpoint" else _source_hint(folder)
    return CheckpointError(f"{file} is a file of {what}, not a checkpoint", hint=hint)


def _folder_error(folder: Path) -> LlmcError:
    from compiler.frontends import is_checkpoint

    if is_engine(folder):
        return CheckpointError(f"{folder} is an engine, not a checkpoint", hint=_source_hint(folder))
    if graphs := dumped_graphs(folder):
        return CheckpointError(
            f"{folder} is a folder of {len(graphs)} graphs, not a checkpoint",
            hint=f"llmc inspect {folder} shows them, llmc opt rewrites one; a checkpoint has a {_CONFIG}",
        )
    if (folder / _CONFIG).exists():
        return CheckpointError(f"{folder / _CONFIG} is a folder", hint="a checkpoint has a file of that name")
    within = [folder / name for name in names_in(folder) if is_checkpoint(folder / name)]
    if within:
        hint = f"it holds checkpoints: give one of them, such as {within[0]}"
    elif engines := folders_with(folder, MANIFEST):
        hint = f"it holds engines, such as {engines[0]}; a checkpoint has a {_CONFIG}"
    elif not any(folder.iterdir()):
        hint = "it is empty; give the folder of a checkpoint in the Hugging Face layout"
    else:
        hint = "give the folder of a checkpoint in the Hugging Face layout, or one of those in docs/checkpoints.md"
    return CheckpointError(f"{folder} has no {_CONFIG}", hint=hint)


def _source_hint(engine: Path) -> str:
    """How to go on with an engine where a checkpoint was wanted."""
    try:
        source = f", {read_manifest(engine, verify=False).source.folder}"
    except EngineError:
        source = ""
    return f"give the checkpoint that it was compiled from{source}; llmc run {engine} runs the engine"
