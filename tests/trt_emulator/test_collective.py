"""Layers that talk to other ranks."""

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from compiler.errors import TargetError
from compiler.trt_emulator.memory import TORCH_TYPES
from tests.trt_emulator.networks import Network, bind, evaluate


class Rank:
    """One of two ranks in threads of this process."""

    size = 2

    def __init__(self, index, board, barrier):
        self.index, self.board, self.barrier = index, board, barrier

    def _exchange(self, tensor):
        self.board[self.index] = tensor.clone()
        self.barrier.wait(10)
        both = [self.board[0], self.board[1]]
        self.barrier.wait(10)
        return both

    def all_reduce(self, tensor):
        first, second = self._exchange(tensor)
        return first + second

    def all_max(self, tensor):
        return torch.maximum(*self._exchange(tensor))

    def all_gather(self, tensor):
        return torch.cat(self._exchange(tensor))


def on_both_ranks(work):
    """What `work(communicator)` gives on each rank."""
    board: dict[int, torch.Tensor] = {}
    barrier = Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, [Rank(index, board, barrier) for index in range(2)]))


def named(collective):
    return json.dumps({"op": "%3", "collective": collective})


@pytest.mark.parametrize("dtype", ["FLOAT", "HALF", "BF16"])
@pytest.mark.parametrize(
    ("collective", "wanted"),
    [("all_reduce_sum", [[11, 22]]), ("all_reduce_max", [[10, 20]]), ("all_gather", [[1, 2], [10, 20]])],
)
def test_collectives(collective, wanted, dtype):
    def work(rank):
        x = torch.tensor([[1.0, 2.0]]).to(TORCH_TYPES[dtype]) * 10**rank.index
        shape = (len(wanted), 2)
        return evaluate(
            "DIST_COLLECTIVE", [x], dtype, shape, metadata=named(collective), communicator=rank, num_ranks=2
        )

    for result in on_both_ranks(work):
        assert result.dtype == TORCH_TYPES[dtype] and result.tolist() == wanted


def test_a_product_whose_weights_are_split_over_two_ranks():
    x, w = torch.arange(6.0).reshape(2, 3), torch.arange(12.0).reshape(3, 4)

    def work(rank):
        network = Network()
        network.input("x", "FLOAT", (-1, 3))
        network.weight("w", "FLOAT", (3, 2))
        network.weight("v", "FLOAT", (2, 1))
        network.layer("MATRIX_MULTIPLY", ["x", "w"], "part", "FLOAT", (-1, 2), op0="NONE", op1="NONE")
        network.layer("MATRIX_MULTIPLY", ["part", "v"], "sum", "FLOAT", (-1, 1), op0="NONE", op1="NONE")
        network.layer("DIST_COLLECTIVE", ["sum"], "y", "FLOAT", (-1, 1), metadata=named("all_reduce_sum"), num_ranks=2)
        context = network.engine("y").create_execution_context()
        context.set_communicator(rank)
        part = slice(2 * rank.index, 2 * rank.index + 2)
        bound = bind(context, {"x": x, "w": w[:, part].contiguous(), "v": torch.ones(2, 1)})
        assert context.execute_async_v3(0) and context.execute_async_v3(0)
        return bound["y"]

    first, second = on_both_ranks(work)
    assert torch.equal(first, (x @ w).sum(1, keepdim=True)) and torch.equal(first, second)


def test_a_communicator_is_needed():
    with pytest.raises(TargetError, match=r"'layer output' \(DIST_COLLECTIVE\) has no communicator"):
        evaluate("DIST_COLLECTIVE", [torch.ones(1)], "FLOAT", (1,), metadata=named("all_reduce_sum"), num_ranks=2)


@pytest.mark.parametrize("collective", ["all_reduce_sum", "all_gather"])
def test_a_communicator_of_other_ranks_is_refused(collective):
    shape, rank = (3,) if collective == "all_gather" else (1,), Rank(0, {}, None)
    with pytest.raises(TargetError, match=r"is for 3 ranks; its communicator has 2"):
        evaluate(
            "DIST_COLLECTIVE",
            [torch.ones(1)],
            "FLOAT",
            shape,
            metadata=named(collective),
            communicator=rank,
            num_ranks=3,
        )


@pytest.mark.parametrize("metadata", [named("broadcast"), "", "{}", "[1]"])
def test_other_collectives_are_refused_when_the_engine_is_made(metadata):
    network = Network()
    network.input("x", "FLOAT", (2,))
    network.layer("DIST_COLLECTIVE", ["x"], "y", "FLOAT", (2,), metadata=metadata, num_ranks=2)
    with pytest.raises(TargetError, match=r"'layer y' \(DIST_COLLECTIVE\) is a collective whose metadata"):
        network.engine("y")
