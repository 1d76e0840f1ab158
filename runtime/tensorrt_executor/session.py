"""Sequences in progress on a TensorRT engine."""

from __future__ import annotations

import torch
from torch import Tensor

from compiler.errors import RequestError
from runtime.tensorrt_executor.caches import Caches
from runtime.tensorrt_executor.frame import Frame, StepInputs
from runtime.tensorrt_executor.interface import Stream
from runtime.tensorrt_executor.offers import CacheSize, Offer, Offers


class TensorRTSession:
    """Sequences in progress; see `runtime.executor.Session`.

    Rows that get one token run together, those that get more one after the other, in pieces of which the last may be
    padded. A run over all rows writes a token into the caches of each, at the place after its past, and a padded one
    writes beyond its row's tokens: nothing attends to these, the row's next tokens overwrite them, and TensorRT drops
    what does not fit.
    """

    def __init__(
        self, stream: Stream, offers: Offers, inputs: StepInputs, batch: int, capacity: int, *, record: bool
    ) -> None:
        """Allocate the smallest caches for the batch, and make the contexts that work on them.

        Raises:
            LlmcError: if there is no memory, or TensorRT fails.
        """
        self.batch, self.capacity = batch, capacity
        self._stream, self._offers, self._inputs, self._record = stream, offers, inputs, record
        with stream.active():
            size = offers.size(batch, 1)
            self._caches = Caches(offers.signature, size, stream.device)
            self._prepare(size)
            for prefill in offers.prefill(size):
                prefill.plan.context(prefill.profile)

    @torch.inference_mode()
    def step(self, token_ids: Tensor, past_len: Tensor, new_len: Tensor, logit_pos: Tensor) -> Tensor:
        """See `runtime.executor.Session.step`. A wanted position beyond a row's tokens gives its last token's logits.

        Raises:
            RequestError: if a sequence outgrows the capacity, or no plan takes the step.
            EngineError: if TensorRT fails.
        """
        longest = int((past_len + new_len).max())
        if longest > self.capacity:
            raise RequestError(f"a sequence grew to {longest} tokens; the caches hold {self.capacity}")
        counts = new_len.tolist()
        with self._stream.active():
            if longest > self._caches.size.capacity:
                size = self._offers.size(self.batch, longest)
                self._caches.grow(size)
                self._prepare(size)
            if max(counts) <= 1:
                return self._run_together(token_ids, past_len, new_len).expand(-1, logit_pos.shape[1], -1)
            logits = self._first_logits(token_ids, past_len, new_len, logit_pos.shape[1])
            for row, count in enumerate(counts):
                if count > 1:
                    self._run_alone(row, token_ids[row, :count], past_len[row], logit_pos[row], logits[row])
            return logits

    def _first_logits(self, token_ids: Tensor, past_len: Tensor, new_len: Tensor, count: int) -> Tensor:
        """Logits `[B, count, vocabulary]` that are right for rows of one token. They run first: see the class."""
        if (new_len == 1).any():
            return self._run_together(token_ids, past_len, new_len).repeat(1, count, 1)
        like = self._offers.signature
        return torch.zeros(self.batch, count, like.vocab, dtype=like.logits_dtype, device=self._stream.device)

    def _run_together(self, token_ids: Tensor, past_len: Tensor, new_len: Tensor) -> Tensor:
        """Run the rows of one token; returns the logits of all rows, `[B, 1, vocabulary]`."""
        one = (new_len == 1).to(torch.int32)
        step = {
            "token_ids": token_ids[:, :1] * one[:, None],
            "past_len": past_len,
            "new_len": one,
            "logit_pos": torch.zeros_like(token_ids[:, :1]),
        }
        self._run(self._decoder, self._decode_frame, step, record=self._record)
        return self._decode_frame.logits[: self.batch]

    def _run_alone(self, row: int, token_ids: Tensor, past_len: Tensor, logit_pos: Tensor, logits: Tensor) -> None:
        """Run the tokens of a row, in the pieces that the plans take best, and put its logits into `logits`."""
        count = len(token_ids)
        positions = logit_pos.clamp(max=count - 1)
        for piece in self._offers.pieces(self._caches.size, count, sorted(set(positions.tolist()))):
            here = (positions >= piece.start) & (positions < piece.end)
            wanted, places = torch.unique(positions[here] - piece.start, return_inverse=True)
            step = {
                "token_ids": token_ids[None, piece.start : piece.end],
                "past_len": past_len[None] + piece.start,
                "new_len": torch.tensor([piece.end - piece.start], dtype=torch.int32),
                "logit_pos": wanted[None],
            }
            signature = piece.runs.plan.signature
            frame = self._inputs.frame(signature, piece.width, piece.logits, self._caches.row(row))
            self._run(piece.runs, frame, step, record=False)
            if len(wanted):
                logits[here] = frame.logits[0, places]

    def _run(self, offer: Offer, frame: Frame, step: dict[str, Tensor], *, record: bool) -> None:
        self._inputs.write(frame, step)
        offer.plan.context(offer.profile).run(frame, record=record)

    def _prepare(self, size: CacheSize) -> None:
        """Choose and make what decodes with caches of that size."""
        self._decoder = self._offers.decode(size)
        self._decoder.plan.context(self._decoder.profile)
        self._decode_frame = self._inputs.frame(self._decoder.plan.signature, 1, 1, self._caches.tensors)
