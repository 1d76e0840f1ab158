"""Layers that talk to other ranks."""

import json

import pytest
import torch

from compiler.errors import TargetError
from tests.trt.emulator.networks import Network, evaluate


class Pair:
    """Two ranks, the other of which has the same tensors, doubled."""

    size = 2

    def all_reduce(self, tensor):
        return tensor * 3

    def all_gather(self, tensor):
        return torch.cat([tensor, tensor * 2])


def named(collective):
    return json.dumps({"op": "%3", "collective": collective})


def test_all_reduce():
    x = torch.tensor([[1.0, 2.0]])
    result = evaluate("DIST_COLLECTIVE", [x], "FLOAT", (1, 2), metadata=named("all_reduce_sum"), communicator=Pair())
    assert result.tolist() == [[3, 6]]


def test_all_gather():
    x = torch.tensor([[1.0, 2.0]])
    result = evaluate("DIST_COLLECTIVE", [x], "FLOAT", (2, 2), metadata=named("all_gather"), communicator=Pair())
    assert result.tolist() == [[1, 2], [2, 4]]


def test_a_communicator_is_needed():
    with pytest.raises(TargetError, match=r"'layer output' \(DIST_COLLECTIVE\) has no communicator"):
        evaluate("DIST_COLLECTIVE", [torch.ones(1)], "FLOAT", (1,), metadata=named("all_reduce_sum"))


@pytest.mark.parametrize("metadata", [named("broadcast"), "", "{}", "[1]"])
def test_other_collectives_are_refused_when_the_engine_is_made(metadata):
    network = Network()
    network.input("x", "FLOAT", (2,))
    network.layer("DIST_COLLECTIVE", ["x"], "y", "FLOAT", (2,), metadata=metadata)
    with pytest.raises(TargetError, match=r"'layer y' \(DIST_COLLECTIVE\) is a collective whose metadata"):
        network.engine("y")
