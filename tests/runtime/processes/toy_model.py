"""A model of integers that is cut as real ones are: each stage sums over its cache, each rank of it a share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compiler.ir.step import Step
from runtime.collectives.communicator import Communicator, SingleRank
from runtime.executors.interface import RowCopies
from runtime.executors.parallel.pipeline import LogitsType, PipelineExecutor
from runtime.generation.generate import generate
from runtime.generation.requests import Request

VOCAB = 97
LOGITS = LogitsType(VOCAB, torch.float32)
LAYERS = 12
REQUESTS = [Request((5, 17, 3), 6), Request((1,), 4), Request((9, 8, 7, 6), 5), Request((96,), 7), Request((40, 2), 3)]


def expected() -> list[list[int]]:
    """What one rank generates."""
    return tokens(PipelineExecutor(ToyStage(0, 1, SingleRank()), SingleRank(), LOGITS))


def tokens(executor) -> list[list[int]]:
    return [result.token_ids for result in generate(executor, REQUESTS, batch=3)[0]]


class ToyStage:
    """Some of the layers. The first stage sends the embedded tokens to the last one, past those between them."""

    name = "toy"

    def __init__(self, stage: int, stages: int, tp: Communicator, chunk: int = 100) -> None:
        self.stage, self.stages, self.tp, self.chunk = stage, stages, tp, chunk
        self.layers = range(LAYERS * stage // stages, LAYERS * (stage + 1) // stages)
        self.rows: list[slice] = []

    def open_stage(self, batch: int, capacity: int) -> ToySession:
        return ToySession(self, batch, capacity)


class ToySession:
    def __init__(self, toy: ToyStage, batch: int, capacity: int) -> None:
        self.toy, self.chunk = toy, toy.chunk
        self.caches = torch.full((len(toy.layers), batch, capacity), torch.nan)

    def buffers(self, rows: int, length: int, positions: int = 1) -> dict[str, Tensor]:
        stage, last = self.toy.stage, self.toy.stages - 1
        names = [f"recv.{stage - 1}.hidden"] if stage else []
        names += ["recv.0.skip"] if stage == last > 0 else []
        return {name: torch.empty(rows, length) for name in names}

    def step(self, rows: slice, step: Step, received: Mapping[str, Tensor]) -> dict[str, Tensor]:
        token_ids, past_len, new_len, logit_pos = step
        assert token_ids.shape[1] <= self.chunk
        self.toy.rows.append(rows)
        stage, last = self.toy.stage, self.toy.stages - 1
        hidden = received[f"recv.{stage - 1}.hidden"] if stage else token_ids.float()
        skip = received.get("recv.0.skip", token_ids.float())
        for layer, cache in zip(self.toy.layers, self.caches[:, rows], strict=True):
            hidden = self.layer(layer, cache, hidden, past_len.tolist(), new_len.tolist())
        if stage < last:
            sent = {f"send.{stage + 1}.hidden": hidden}
            return {**sent, f"send.{last}.skip": token_ids.float()} if stage == 0 else sent
        chosen = (hidden + skip).gather(1, logit_pos.long()) % VOCAB
        return {"logits": torch.nn.functional.one_hot(chosen.long(), VOCAB).float()}

    def copy_rows(self, copies: RowCopies) -> None:
        self.caches[:, copies.destinations] = self.caches[:, copies.sources]

    def layer(self, layer: int, cache: Tensor, hidden: Tensor, past: list[int], new: list[int]) -> Tensor:
        """The sum over a row's tokens so far, of which each rank adds up a part."""
        tp = self.toy.tp
        result = torch.zeros_like(hidden)
        for row, (start, count) in enumerate(zip(past, new, strict=True)):
            cache[row, start : start + count] = hidden[row, :count]
            for i in range(count):
                result[row, i] = cache[row, tp.rank : start + i + 1 : tp.size].sum()
        return (tp.all_reduce(result) * (layer + 2) + layer) % VOCAB
