"""Steps as integers, batches as parts, and the devices of ranks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from compiler.errors import TargetError
from compiler.ir.step import Step
from runtime.executors.parallel.pipeline import parts
from runtime.executors.parallel.wire import Channel, Kind
from runtime.processes.agreement import device_of_rank


class Wire:
    """Keeps what is posted."""

    def __init__(self) -> None:
        self.posted: list[np.ndarray] = []

    def post(self, data: np.ndarray) -> None:
        self.posted.append(data.copy())

    def take(self, data: np.ndarray) -> None:
        data[:] = self.posted.pop(0)


@pytest.mark.parametrize(("length", "messages"), [(1, 1), (200, 1), (1500, 2)])
def test_a_step_travels_as_one_broadcast_if_it_is_short(length: int, messages: int) -> None:
    ids = torch.randint(0, 1000, (3, length), dtype=torch.int32)
    past, new = torch.tensor([1, 2, 3], dtype=torch.int32), torch.tensor([length, 0, 1], dtype=torch.int32)
    step = Step(ids, past, new, torch.tensor([[0], [1], [2]], dtype=torch.int32).expand(3, 2))
    wire = Wire()
    channel = Channel(wire)  # type: ignore[arg-type]
    channel.post(Kind.STEP, [7], *step.packed())
    assert len(wire.posted) == messages
    kind, numbers = channel.take()
    number, arrived = int(numbers[0]), Step.unpacked(numbers[1:])
    channel.post(Kind.CLOSE, [1])  # the tensors are copies
    assert (kind, number) == (Kind.STEP, 7)
    for sent, got in zip(step, arrived, strict=True):
        assert torch.equal(sent, got)
        assert sent.dtype == got.dtype


@pytest.mark.parametrize(
    ("rows", "length", "stages", "sizes"),
    [
        (8, 1, 2, [8]),  # a step of decoding is one part
        (8, 1000, 1, [8]),
        (8, 1000, 2, [1, 2, 1, 2, 2]),
        (4, 100, 2, [4]),
        (4, 128, 2, [2, 2]),
        (3, 1000, 4, [1, 1, 1]),
    ],
)
def test_a_batch_is_cut_where_that_keeps_stages_busy(rows: int, length: int, stages: int, sizes: list[int]) -> None:
    cut = parts(rows, length, stages, tokens=256)
    assert [part.stop - part.start for part in cut] == sizes
    assert [row for part in cut for row in range(rows)[part]] == list(range(rows))


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [("auto", 0, "cpu"), ("cpu", 4, "cpu"), ("auto", 4, "cuda:2"), ("cuda", 3, "cuda:2")],
)
def test_a_rank_has_the_gpu_of_its_number_on_its_host(device: str, gpus: int, expected: str) -> None:
    world = SimpleNamespace(local_rank=2, size=6)
    assert device_of_rank(world, device, gpus=gpus) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("device", "gpus", "message"), [("cuda", 2, "which has 2 GPUs"), ("cuda:0", 4, "one device")])
def test_ranks_without_a_gpu_of_their_own(device: str, gpus: int, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        device_of_rank(SimpleNamespace(local_rank=2, size=6), device, gpus=gpus)  # type: ignore[arg-type]
