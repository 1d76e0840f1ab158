"""What a plan takes and gives, by its record, and whether its engine is the one of the record."""

from dataclasses import replace

import pytest
import torch

from compiler.errors import EngineError
from compiler.store.weight_bytes import WeightBytes
from compiler.trt_network.record import NetworkRecord, TensorRecord, Weight
from runtime.executors.tensorrt.signature import Activation
from runtime.executors.tensorrt.signature_reading import read_signature
from tests.runtime.executors.tensorrt.fake_engine import (
    CACHE,
    NEXT_CACHE,
    SPLIT,
    WEIGHTS,
    FakeBackend,
    FakeEngine,
    decode,
    dynamic,
    fake_executor,
    fake_plan,
    fake_record,
)

ONE = ((1, 1), (1, 1), (1, 1))


def test_a_network_without_profiles_takes_its_own_shapes() -> None:
    record = fake_record(8, ((4, 4), (1, 1), (1, 1)))
    assert record.profiles == ()
    signature = read_signature(record, "x.network.json")
    assert [(p.rows, p.width) for p in signature.profiles] == [((4, 4), (1, 1))]
    assert signature.capacity == 8
    assert [(tensor.name, tensor.nbytes, weight) for tensor, weight in signature.weights] == [
        ("unit", 4, Weight("unit", 4))
    ]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (fake_record(8, ONE, dtypes={"past_len": "FLOAT"}), "the input 'past_len' is not of type INT32"),
        (fake_record(8, ONE, dtypes={CACHE: "FP4"}), "'cache.0.k' has the type FP4"),
        (replace(fake_record(8, ONE), weights={}), "has an input 'unit' that is no weight"),
        (fake_record(8, ONE, drop=(NEXT_CACHE,)), "has an input 'cache.0.k' that is no weight, no cache"),
        (fake_record(8, ONE, drop=("token_ids",)), "has no 'token_ids'"),
        (fake_record(8, ONE, drop=("logits",)), "has no 'logits'"),
    ],
)
def test_networks_of_others_are_refused(record, message) -> None:
    with pytest.raises(EngineError, match=message) as raised:
        read_signature(record, "rank0.x.network.json")
    assert "rank0.x.network.json" in raised.value.message


def staged(shape=(4, 1, 8)) -> NetworkRecord:
    """A network of a middle stage, which has no caches."""
    record = fake_record(8, ((4, 4), (1, 1), (1, 1)), drop=("token_ids", "logits", CACHE, NEXT_CACHE))
    ends = {name: TensorRecord(name, "HALF", shape) for name in ("recv.0.x", "send.2.y")}
    return replace(
        record, tensors={**record.tensors, **ends}, inputs=(*record.inputs, "recv.0.x"), outputs=("send.2.y",)
    )


def test_what_passes_between_stages_is_known_by_its_name() -> None:
    signature = read_signature(staged(), "x.network.json")
    assert signature.received == (Activation("recv.0.x", (8,), torch.float16),)
    assert signature.sent == (Activation("send.2.y", (8,), torch.float16),)
    assert signature.logits is None
    assert [(p.rows, p.width) for p in signature.profiles] == [((4, 4), (1, 1))]
    assert signature.input_shapes(4, 1, 1)["recv.0.x"] == (4, 1, 8)
    assert signature.outputs == signature.sent
    assert signature.capacity > 10**6  # whatever the other stages hold
    head = read_signature(replace(staged(), positions=("recv.0.x",)), "x.network.json")
    assert head.received[0].shape(4, 5, 2) == (4, 2, 8)
    assert head.sent[0].shape(4, 5, 2) == (4, 5, 8)
    with pytest.raises(EngineError, match=r"'recv.0.x' has the shape \[4\], not one for each token"):
        read_signature(staged((4,)), "x.network.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: replace(r, inputs=r.inputs[1:]), "its inputs is"),
        (lambda r: replace(r, tensors=r.tensors | {"logits": TensorRecord("logits", "HALF", (1, 1, 97))}), "HALF"),
        (lambda r: replace(r, tensors=r.tensors | {CACHE: TensorRecord(CACHE, "FLOAT", (1, 3, 4, 1))}), "the shape of"),
        (lambda r: replace(r, layers=()), "the input whose memory 'cache.0.k.next' shares is None"),
        (lambda r: replace(r, profiles=r.profiles[:1]), "the number of its profiles is 1, the record says 2"),
        (lambda r: replace(r, profiles=r.profiles[::-1]), r"the range of 'token_ids' in profile 0 is"),
    ],
)
def test_an_engine_that_is_not_the_one_of_its_record_is_refused(monkeypatch, change, message) -> None:
    name, record = dynamic()
    monkeypatch.setattr(
        FakeBackend, "load", lambda self, files, record: FakeEngine(files.name, change(record), self.runs)
    )
    plan = fake_plan(FakeBackend(), name, record)
    with pytest.raises(EngineError, match=message) as raised:
        _ = plan.engine
    assert raised.value.message.startswith("all-c16.engine is not the engine of its network record")


def test_plans_of_different_models_are_refused() -> None:
    other = ("other", fake_record(8, ONE, dtypes={"logits": "HALF"}))
    with pytest.raises(
        EngineError, match="the plans decode-b1-c8 and other differ in their caches, activations or logits"
    ):
        fake_executor(FakeBackend(), [decode(1, 8), other])
    with pytest.raises(EngineError, match="has no plans"):
        fake_executor(FakeBackend(), [])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [({}, "rank0.safetensors has no tensor 'unit'"), ({"unit": torch.zeros(7, dtype=torch.uint8)}, "has 7 bytes")],
)
def test_a_weights_file_without_what_a_plan_reads_is_refused_when_it_is_used(tensors, message) -> None:
    executor = fake_executor(FakeBackend(weights=WeightBytes(WEIGHTS.file, tensors)), SPLIT)
    with pytest.raises(EngineError, match=message):
        executor.open(1, 8)
