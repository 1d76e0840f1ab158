"""A model is a folder, or an id of the hub."""

from unittest.mock import MagicMock

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from compiler.errors import CheckpointError
from compiler.frontends import resolve_model


def refusal(kind: type[HfHubHTTPError]) -> HfHubHTTPError:
    return kind("no", response=MagicMock())


def test_a_folder_is_itself(tmp_path):
    assert resolve_model(str(tmp_path)) == tmp_path


def test_a_hub_id_is_downloaded_once_with_either_kind_of_weights(tmp_path, monkeypatch):
    asked = []

    def download(model, allow_patterns, ignore_patterns):
        asked.append((model, allow_patterns[-1]))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model("EleutherAI/pythia-70m") == tmp_path
    assert asked == [("EleutherAI/pythia-70m", "*.safetensors"), ("EleutherAI/pythia-70m", "*.bin")]
    (tmp_path / "model.safetensors").touch()
    resolve_model("gpt-j")
    assert asked[2:] == [("gpt-j", "*.safetensors")]


FAILURES = {
    "unknown": (
        refusal(RepositoryNotFoundError),
        "there is no folder 'a/b', and the hub has no such model",
        "check the spelling; private models need: hf auth login",
    ),
    "gated": (
        refusal(GatedRepoError),
        "there is no folder 'a/b', and the hub's model of that id asks for its licence to be accepted",
        "accept it at https://huggingface.co/a/b, then log in: hf auth login",
    ),
    "network": (
        ConnectionError("Name or service not known\nand a long story"),
        (
            "there is no folder 'a/b', and the hub cannot be reached to look for a model of that id: "
            "Name or service not known"
        ),
        "give a local folder, or try again with a network",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures_of_the_hub(monkeypatch, case):
    raised, message, hint = FAILURES[case]

    def download(*args, **kwargs):
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(CheckpointError) as error:
        resolve_model("a/b")
    assert (error.value.message, error.value.hint) == (message, hint)


def test_a_path_with_a_typo(tmp_path):
    (tmp_path / "pythia-160m").mkdir()
    with pytest.raises(CheckpointError) as error:
        resolve_model(str(tmp_path / "pythia-160"))
    near = tmp_path / "pythia-160m"
    assert error.value.message == f"there is no folder '{tmp_path / 'pythia-160'}'; did you mean '{near}'?"
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError) as error:
        resolve_model(str(tmp_path / "model.safetensors"))
    assert error.value.message == f"{tmp_path / 'model.safetensors'} is a file"
    assert error.value.hint == "give the folder that holds the config.json of a checkpoint"


def test_a_missing_folder_is_said_before_what_the_hub_says(tmp_path, monkeypatch):
    """`models/opt` may be a path or an id: near folders come first, then what lies beside it, then the hub."""

    def download(*args, **kwargs):
        raise refusal(RepositoryNotFoundError)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "opt-tiny").mkdir(parents=True)
    expected = {
        "models/opt-tyni": "there is no folder 'models/opt-tyni'; did you mean 'models/opt-tiny'? (the hub has no such",
        "modles/opt-tiny": "there is no folder 'modles/opt-tiny'; did you mean 'models/opt-tiny'? (the hub has no such",
        "models/pythia": "there is no folder 'models/pythia', and the hub has no such model",
        "./models/OPT-tiny": "there is no folder './models/OPT-tiny'; did you mean 'models/opt-tiny'?",
        "some/where/else": "there is no folder 'some/where/else'",
    }
    for model, message in expected.items():
        with pytest.raises(CheckpointError) as error:
            resolve_model(model)
        assert error.value.message.startswith(message)
        if model.startswith("models/"):
            assert error.value.hint == "models holds: opt-tiny"
