"""CalibrationResults of calibration in files."""

import errno
import json

import pytest
import torch
from safetensors.torch import save_file

from compiler.errors import PassError
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.int4 import pack_int4
from compiler.ir.tensor_data import read_tensor
from compiler.passes.quant.store import ResultStore, Stored
from compiler.store.safetensors_writer import SafetensorsWriter

Q = torch.tensor([[1, -8, 7]], dtype=torch.int8)
SCALE = torch.tensor([[0.5]])


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return ResultStore(Builder().build(), None, "some settings")


def filled(store):
    store.write({"w/scale": Stored(SCALE, "h.0.w"), "w": Stored(Q, "h.0.w", DType.i4)})
    store.write({"v": Stored(SCALE.half(), "h.1.v")})
    store.finish({"errors": {"w": 0.1}})
    return store


def test_results_come_back_in_the_types_of_the_graph(store):
    found = filled(store).refs()
    assert {key: (str(ref.type), ref.name) for key, ref in found.items()} == {
        "w/scale": ("f32[1,1]", "h.0.w"),
        "w": ("i4[1,3]", "h.0.w"),
        "v": ("f16[1,1]", "h.1.v"),
    }
    values = {key: read_tensor(ref, "/").tolist() for key, ref in found.items()}
    assert values == {"w/scale": [[0.5]], "w": [[1, -8, 7]], "v": [[0.5]]}
    assert store.note == {"errors": {"w": 0.1}}


def test_results_that_are_not_complete_are_none(store):
    store.write({"w": Stored(SCALE, "h.0.w")})
    assert store.note is None


def test_the_order_of_tensors_in_a_file_is_that_of_their_names(store):
    found = filled(store).refs()
    assert found["w"].file == found["w/scale"].file and found["w"].offset < found["w/scale"].offset


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:8] + b"!" + data[9:], lambda data: b""])
def test_results_in_a_damaged_file_are_computed_again(store, damage):
    path = filled(store).folder / "00001.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert store.note is None


def test_results_that_the_library_of_the_format_wrote_are_found(store):
    store.write({})  # makes the folder
    data = {"w": pack_int4(Q), "s": SCALE.reshape(-1).view(torch.uint8)}
    types = {"w": json.dumps(["i4[1,3]", "h.0.w"]), "s": json.dumps(["f32[1,1]", "h.0.w"])}
    save_file(data, store.folder / "00000.safetensors", metadata=types)
    assert {key: read_tensor(ref, "/").tolist() for key, ref in store.refs().items()} == {
        "w": [[1, -8, 7]],
        "s": [[0.5]],
    }


def test_a_full_disk_is_said_and_leaves_no_file(store, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SafetensorsWriter, "write", full)
    with pytest.raises(PassError, match=r"cannot write the results of calibration to .*: No space left") as error:
        store.write({"w": Stored(SCALE, "h.0.w")})
    assert error.value.hint and list(store.folder.iterdir()) == []
