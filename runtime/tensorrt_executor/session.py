"""Sequences in progress on a TensorRT engine."""

from __future__ import annotations

import torch
from torch import Tensor

from compiler.errors import RequestError
from runtime.tensorrt_executor.bindings import Bindings
from runtime.tensorrt_executor.interface import Backend
from runtime.tensorrt_executor.runner import Runner
from runtime.tensorrt_executor.signature import Signature


class TensorRTSession:
    """Sequences in progress; see `runtime.executor.Session`.

    An engine writes all S positions after a row's past into its cache, padding too. Nothing attends to what lies beyond
    a row's tokens, and later tokens overwrite it; but there must be room for it. Where a row is too near its end, the
    rows of the step are run one by one, without padding.
    """

    def __init__(self, backend: Backend, runner: Runner, signature: Signature, batch: int, capacity: int) -> None:
        """Allocate the caches. Raises RequestError if the memory does not suffice."""
        self.batch, self.capacity = batch, capacity
        self._stream, self._runner, self._signature = backend.stream, runner, signature
        self._bindings = self._allocate(batch)
        self._single: Bindings | None = None

    @torch.inference_mode()
    def step(self, token_ids: Tensor, past_len: Tensor, new_len: Tensor, logit_pos: Tensor) -> Tensor:
        """See `runtime.executor.Session.step`.

        Raises:
            RequestError: if a sequence outgrows the capacity, or no profile of the engine takes the step.
            EngineError: if TensorRT fails.
        """
        past, new = past_len.tolist(), new_len.tolist()
        longest = max(start + count for start, count in zip(past, new, strict=True))
        if longest > self.capacity:
            raise RequestError(f"a sequence grew to {longest} tokens; the caches hold {self.capacity}")
        with self._stream.active():
            if max(past) + token_ids.shape[1] <= self._signature.capacity:
                return self._run(self._bindings, token_ids, past_len, new_len, logit_pos)
            return self._run_rows(token_ids, past_len, new_len, logit_pos, new)

    def _run(
        self, bindings: Bindings, token_ids: Tensor, past_len: Tensor, new_len: Tensor, logit_pos: Tensor
    ) -> Tensor:
        frame = bindings.frame(token_ids.shape[1], logit_pos.shape[1])
        step = {"token_ids": token_ids, "past_len": past_len, "new_len": new_len, "logit_pos": logit_pos}
        bindings.write(frame, step)
        self._runner.run(frame)
        return frame.logits

    def _run_rows(
        self, token_ids: Tensor, past_len: Tensor, new_len: Tensor, logit_pos: Tensor, counts: list[int]
    ) -> Tensor:
        """Run each row alone, in caches of its own: TensorRT takes no address that is not a multiple of 256 bytes."""
        if self._single is None:
            self._single = self._allocate(1)
        single = self._single
        logits = torch.zeros(
            *logit_pos.shape, self._signature.vocab, dtype=self._signature.logits_dtype, device=self._stream.device
        )
        for row, count in enumerate(counts):
            if not count:
                continue
            this = slice(row, row + 1)
            for one, cache in zip(single.caches, self._bindings.caches, strict=True):
                one.copy_(cache[this])
            positions = logit_pos[this].clamp(max=count - 1)
            logits[this] = self._run(single, token_ids[this, :count], past_len[this], new_len[this], positions)
            for one, cache in zip(single.caches, self._bindings.caches, strict=True):
                cache[this] = one
        return logits

    def _allocate(self, batch: int) -> Bindings:
        try:
            with self._stream.active():
                return Bindings(self._signature, batch, self._stream.device)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            raise RequestError(
                f"there is no memory for the caches of {batch} sequences of {self._signature.capacity} tokens: {error}",
                hint="ask for fewer sequences at a time, or compile with a smaller --max-seq",
            ) from error
