"""Finding a model: a folder, or an id of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from compiler.errors import CheckpointError
from compiler.ir.suggest import did_you_mean

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_BESIDE_WEIGHTS = ["*.json", "*.model", "*.txt", "*.jinja"]


def resolve_model(model: str) -> Path:
    """The folder of the model: `model` itself, or where the hub's copy of that id was downloaded to.

    Raises:
        CheckpointError: if it is neither, or the hub does not know it or cannot be reached.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{model} is a file", hint=f"give the folder that holds it: {folder.parent}")
    if not _HUB_ID.fullmatch(model):
        siblings = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise CheckpointError(f"there is no folder {model!r}{did_you_mean(folder.name, siblings)}")
    return _download(model)


def _download(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    def fetch(*weights: str) -> Path:
        # Subfolders hold the same weights for other frameworks.
        return Path(snapshot_download(model, allow_patterns=[*_BESIDE_WEIGHTS, *weights], ignore_patterns=["*/*"]))

    missing = f"there is no folder {model!r}"
    try:
        folder = fetch("*.safetensors")
        return folder if any(folder.glob("*.safetensors")) else fetch("*.bin")
    except GatedRepoError:
        raise CheckpointError(
            f"{missing}, and the hub's model of that id asks for its licence to be accepted",
            hint=f"accept it at https://huggingface.co/{model}, then log in: hf auth login",
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise CheckpointError(
            f"{missing}, and the hub has no such model", hint="check the spelling; private models need: hf auth login"
        ) from None
    except (OSError, HfHubHTTPError) as error:  # no network, a proxy, offline mode and nothing cached
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{missing}, and the hub cannot be reached to look for a model of that id: {reason}",
            hint="give a local folder, or try again with a network",
        ) from None
