"""Records as files."""

import json

import pytest

from compiler.errors import EngineError
from compiler.trt_network.record import (
    LayerRecord,
    NetworkRecord,
    ProfileRecord,
    Quantized,
    TensorRecord,
    Weight,
    read_record,
)

TENSORS = [
    TensorRecord("x", "HALF", (-1, 4)),
    TensorRecord("cache", "HALF", (1, 2, 8, 4)),
    TensorRecord("w", "BF16", (4, 4)),
    TensorRecord("new", "HALF", (1, 2, 8, 4)),
]
QUANTIZED = Quantized(TensorRecord("q", "INT4", (4, 8)), TensorRecord("q.scale", "FLOAT", (4, 1)), None, "HALF")


def record():
    return NetworkRecord(
        "net",
        "tensorrt_rtx 1.6.1.120",
        {tensor.name: tensor for tensor in TENSORS},
        (LayerRecord("update", "KV_CACHE_UPDATE", ("cache", "x", None), ("new",), {"mode": "LINEAR", "n": [1]}, "m"),),
        ("x", "cache", "w"),
        ("new", "x"),
        (ProfileRecord("decode", {"x": ((1, 4), (2, 4), (8, 4))}),),
        {"w": Weight("layers.w", 512), "q": Weight("q", quantized=QUANTIZED)},
        {"inline": b"\x00\xff\x10", "nothing": b"", "stored": Weight("b")},
    )


def test_a_record_comes_back_as_it_was_written(tmp_path):
    record().write(tmp_path / "net.json")
    assert read_record(tmp_path / "net.json") == record()


def test_weights_are_written_as_tensors_of_the_file_and_how_to_dequantize_them(tmp_path):
    record().write(tmp_path / "net.json")
    assert json.loads((tmp_path / "net.json").read_text())["weights"] == {
        "w": {"tensor": "layers.w", "offset": 512, "quantized": None},
        "q": {
            "tensor": "q",
            "offset": 0,
            "quantized": {
                "codes": {"tensor": "q", "dtype": "INT4", "shape": [4, 8]},
                "scale": {"tensor": "q.scale", "dtype": "FLOAT", "shape": [4, 1]},
                "zero": None,
                "dtype": "HALF",
            },
        },
    }


def test_the_type_and_the_bytes_of_a_tensor_follow_from_its_record():
    assert str(TensorRecord("q", "INT4", (3, 5)).type) == "i4[3,5]" and TensorRecord("q", "INT4", (3, 5)).nbytes == 8
    assert str(TensorRecord("x", "HALF", (2,)).type) == "f16[2]" and TensorRecord("x", "FP4", (3,)).nbytes == 2
    with pytest.raises(EngineError, match=r"the tensor 'x' of a network is of type FP4, which llmc does not use"):
        _ = TensorRecord("x", "FP4", (2,)).type
    with pytest.raises(EngineError, match=r"the tensor 'x' of a network is of type FP3, which llmc does not know"):
        _ = TensorRecord("x", "FP3", (2,)).nbytes


def test_aliases_are_the_outputs_of_cache_updates():
    assert record().aliases == {"new": "cache"}


def damage(path, **changes):
    record().write(path)
    content = json.loads(path.read_text())
    for name, value in changes.items():
        content[name] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 1}, "no network record of version 3"),
        ({"layers": [{}]}, "damaged"),
        ({"tensors": 3}, "damaged"),
        ({"weights": {"w": {"name": "x"}}}, "damaged"),
        ({"constants": {"c": "no base64!"}}, "damaged"),
    ],
)
def test_damaged_records(tmp_path, changes, message):
    damage(tmp_path / "net.json", **changes)
    with pytest.raises(EngineError, match=message) as error:
        read_record(tmp_path / "net.json")
    assert str(tmp_path / "net.json") in error.value.message and error.value.hint


@pytest.mark.parametrize("content", [None, "", "[", "[]", "null"])
def test_files_that_are_no_records(tmp_path, content):
    if content is not None:
        (tmp_path / "net.json").write_text(content)
    with pytest.raises(EngineError, match=r"net\.json"):
        read_record(tmp_path / "net.json")
