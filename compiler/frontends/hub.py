"""Finding a model: a folder, or an id of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from compiler.errors import CheckpointError
from compiler.frontends.layouts import is_checkpoint
from compiler.suggest import did_you_mean_path, names_in

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_BESIDE_WEIGHTS = ["*.json", "*.model", "*.txt", "*.jinja"]
_SHOWN = 8


def resolve_model(model: str) -> Path:
    """The path of the model: `model` itself, or where the hub's copy of that id was downloaded to.

    Raises:
        CheckpointError: if it is neither, with the nearest folder there is, or the hub cannot be reached.
    """
    folder = Path(model).expanduser()
    if folder.is_dir() or is_checkpoint(folder):
        return folder
    if folder.exists():
        holds = (folder.parent / "config.json").is_file()
        raise CheckpointError(
            f"{model} is a file",
            hint=f"give the folder that holds {f'it: {folder.parent}' if holds else 'the config.json of a checkpoint'}",
        )
    if not _HUB_ID.fullmatch(model):
        hint = _neighbours(folder) or "give a folder that holds config.json, or an id of the hub"
        raise CheckpointError(f"there is no folder {model!r}{did_you_mean_path(folder, Path.is_dir)}", hint=hint)
    return _download(model)


def _download(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    def fetch(*weights: str) -> Path:
        # Subfolders hold the same weights for other frameworks.
        return Path(snapshot_download(model, allow_patterns=[*_BESIDE_WEIGHTS, *weights], ignore_patterns=["*/*"]))

    try:
        folder = fetch("*.safetensors")
        return folder if any(folder.glob("*.safetensors")) else fetch("*.bin")
    except GatedRepoError:
        raise CheckpointError(
            _missing(model, "the hub's model of that id asks for its licence to be accepted"),
            hint=f"accept it at https://huggingface.co/{model}, then log in: hf auth login",
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise CheckpointError(
            _missing(model, "the hub has no such model"),
            hint=_neighbours(Path(model)) or "check the spelling; private models need: hf auth login",
        ) from None
    except (OSError, HfHubHTTPError) as error:  # no network, a proxy, offline mode and nothing cached
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            _missing(model, f"the hub cannot be reached to look for a model of that id: {reason}"),
            hint=_neighbours(Path(model)) or "give a local folder, or try again with a network",
        ) from None


def _missing(model: str, hub: str) -> str:
    """That there is no such folder, which one may have been meant, and what the hub says of the id."""
    near = did_you_mean_path(model, Path.is_dir)
    return f"there is no folder {model!r}" + (f"{near} ({hub})" if near else f", and {hub}")


def _neighbours(folder: Path) -> str | None:
    """What lies beside a folder that is missing; None if nothing does, or if no folder was named to look in."""
    parent = folder.parent
    if parent == Path() or not parent.is_dir():
        return None
    found = [name for name in names_in(parent) if (parent / name).is_dir()]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{parent} holds: {', '.join(found[:_SHOWN])}{more}" if found else None
