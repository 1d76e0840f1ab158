"""Files of torch.save: the tensors are found, and no code runs."""

import io
import os
import pickle
import random
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from compiler.errors import CheckpointError
from compiler.frontends import lift, open_checkpoint
from compiler.frontends.torch_file import read_torch_file
from compiler.ir.tensor_data import read_tensor
from tests.frontends.models import neox
from tests.frontends.test_checkpoint import same_weights, weights_of

BASE = torch.arange(48.0).half()
STATE = OrderedDict(
    plain=torch.randn(3, 4),
    view=BASE[4:10].view(2, 3),
    other_view=BASE[40:],
    transposed=torch.randn(5, 6).t(),
    permuted=torch.randn(2, 3, 4).permute(2, 0, 1),
    thin=torch.randn(4, 1, 3).permute(2, 1, 0),
    parameter=torch.nn.Parameter(torch.randn(7)),
    bfloat16=torch.randn(3).bfloat16(),
    double=torch.randn(3).double(),
    flags=torch.tensor([True, False]),
    long=torch.arange(5),
    short=torch.arange(5, dtype=torch.int16),
    scalar=torch.tensor(-1e9),
    empty=torch.zeros(0, 4),
)
STATE["shared"] = STATE["plain"]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_every_tensor_is_found(tmp_path, legacy, protocol):
    path = tmp_path / "x.bin"
    torch.save(STATE, path, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    found = read_torch_file(path, "x.bin")
    assert list(found) == list(STATE)
    for name, tensor in STATE.items():
        assert found[name].shape == tuple(tensor.shape), name
        if name == "short":
            assert found[name].dtype is None
            continue
        data = read_tensor(found[name].ref(), tmp_path)
        perm = found[name].perm
        assert torch.equal(data.permute(perm) if perm else data, tensor), name


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_checkpoint_in_a_bin_file(single, folder, legacy):
    (folder / "model.safetensors").unlink()
    torch.save(neox().state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    found = weights_of(lift(open_checkpoint(folder)))
    expected = weights_of(lift(open_checkpoint(single)))
    found["embed_out.weight"] = found.pop("lm_head.weight")  # save_pretrained writes the old name
    assert same_weights(found, expected)


class Evil:
    """What a malicious checkpoint holds."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("where", ["value", "root"])
def test_code_is_never_run(tmp_path, folder, legacy, where):
    (folder / "model.safetensors").unlink()
    evil = Evil(f"touch {tmp_path / 'touched'}")
    state = {**neox().state_dict(), "x": evil} if where == "value" else evil
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError) as error:
        lift(open_checkpoint(folder))
    assert error.value.message == (
        "pytorch_model.bin carries code: its pickle names 'posix.system', which tensors do not need; "
        "nothing was executed"
    )
    assert error.value.hint == (
        "do not load this file elsewhere unless you trust its source; convert the checkpoint to safetensors where you "
        "trust it: model.save_pretrained(FOLDER)"
    )
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["builtins.eval", "torch.load", "torch._utils._rebuild_wrapper_subclass"])
def test_any_other_name_is_refused(tmp_path, name):
    module, _, last = name.rpartition(".")
    path = tmp_path / "x.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02c" + module.encode() + b"\n" + last.encode() + b"\n.")
    with pytest.raises(CheckpointError) as error:
        read_torch_file(path, "x.bin")
    assert f"names {name!r}" in error.value.message


def refuses(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as error:
        read_torch_file(path, path.name)
    return error.value.message


def saved(state: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream, **options)
    return stream.getvalue()


def test_damaged_files(tmp_path):
    path = tmp_path / "x.bin"
    good = saved({"w": torch.zeros(1000)})
    assert refuses(path, good[:-1000]).startswith("x.bin is truncated or damaged (File is not a zip file; it has ")
    legacy = saved({"w": torch.zeros(1000)}, _use_new_zipfile_serialization=False)
    assert refuses(path, legacy[:-1]) == (
        f"x.bin cannot be read as a torch checkpoint: it is truncated: it should have at least {len(legacy):,} bytes "
        f"but has {len(legacy) - 1:,}"
    )
    assert refuses(path, b"junk").startswith("x.bin cannot be read as a torch checkpoint: it is damaged")
    assert refuses(path, pickle.dumps(1)).endswith("it is neither a zip archive nor a file of torch 0.4 to 1.5")


def test_content_that_is_no_state_dict(tmp_path):
    path = tmp_path / "x.bin"
    start = "x.bin cannot be read as a torch checkpoint: "
    assert refuses(path, saved(torch.zeros(3))) == start + "it holds no state dict"
    assert refuses(path, saved({"step": 3})) == start + "its entry 'step' is no tensor"
    assert refuses(path, saved({"w": torch.zeros(1).expand(5)})) == (
        start + "'w' of shape [5] is stored with gaps or overlaps (strides [0])"
    )


def test_a_pickle_that_contains_itself(tmp_path):
    itself: dict[str, Any] = {}
    itself["w"] = itself
    message = refuses(tmp_path / "x.bin", saved(itself, _use_new_zipfile_serialization=False))
    assert message.startswith("x.bin cannot be read as a torch checkpoint: ")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_damage_anywhere_is_one_clear_error(tmp_path, legacy):
    path = tmp_path / "x.bin"
    good = saved({"w": torch.randn(3, 4), "t": torch.randn(2, 5).t()}, _use_new_zipfile_serialization=not legacy)
    generator = random.Random(0)
    refusals = []
    for _ in range(400):
        data = bytearray(good)
        for _ in range(generator.choice([1, 1, 2, 5])):
            data[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(data[: generator.randrange(len(data))] if generator.random() < 0.1 else data)
        try:
            found = read_torch_file(path, "x.bin")
        except CheckpointError as error:
            refusals.append(error.message)
        else:
            assert len(found) == 2
    assert len(refusals) > 100
    assert [message for message in refusals if not message.startswith("x.bin ")] == []
