"""Sequences in progress on one rank's TensorRT plans: the whole model, or a stage of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compiler.errors import RequestError
from compiler.ir.step import Step
from runtime.executors.interface import RowCopies
from runtime.executors.tensorrt.caches import Caches
from runtime.executors.tensorrt.candidates import CacheSize, Candidate, Candidates
from runtime.executors.tensorrt.frame import Frame, StepInputs
from runtime.executors.tensorrt.interface import Stream
from runtime.executors.tensorrt.step import Chosen, StepPart, StepResults


class TensorRTStage:
    """Sequences in progress; see `runtime.executors.interface.StageSession`. A whole model receives and sends nothing.

    Steps of any length are right: it cuts them itself, into what its plans take.

    Rows that get one token run together, those that get more one after the other, in chunks of which the last may be
    padded. A run over all rows writes a token into the caches of each, at the place after its past, and a padded one
    writes beyond its row's tokens: nothing attends to these, the row's next tokens overwrite them, and TensorRT drops
    what does not fit. Rows that get no tokens, or that a step does not name, run as if they were full, whatever past
    they are given: their caches may be needed again.

    What runs in which order follows from the arguments alone, so that ranks that compute together agree about it.
    """

    def __init__(
        self, stream: Stream, candidates: Candidates, inputs: StepInputs, batch: int, capacity: int, *, capture: bool
    ) -> None:
        """Allocate the smallest caches for the batch, and make the contexts that work on them.

        Raises:
            LlmcError: if there is no memory, or TensorRT fails.
        """
        self._batch, self._capacity = batch, capacity
        self.chunk = capacity
        self._stream, self._candidates, self._inputs, self._capture = stream, candidates, inputs, capture
        with stream.active():
            size = candidates.size(batch, 1)
            self.caches = Caches(candidates.signature, size, stream.device)
            self._prepare(size)
            for prefill in candidates.prefill(size):
                prefill.plan.context(prefill.profile)

    def buffers(self, rows: int, length: int, positions: int = 1) -> Mapping[str, Tensor]:
        """See `StageSession.buffers`."""
        received = self._candidates.signature.received
        return {item.name: item.empty(rows, length, positions, self._stream.device) for item in received}

    @torch.inference_mode()
    def step(self, rows: slice, step: Step, received: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """See `StageSession.step`. A wanted position beyond a row's tokens gives its last token's logits.

        Raises:
            RequestError: if a sequence outgrows the capacity, or no plan takes the step.
            EngineError: if TensorRT fails.
        """
        part = StepPart(rows, step, received)
        longest = int((step.past_len + step.new_len).max())
        if longest > self._capacity:
            raise RequestError(f"a sequence grew to {longest} tokens; the caches hold {self._capacity}")
        with self._stream.active():
            if longest > self.caches.size.capacity:
                size = self._candidates.size(self._batch, longest)
                self.caches.grow(size)
                self._prepare(size)
            if part.longest <= 1 and step.length == 1:
                return self._run_together(part).shown(step.wanted)
            results = self._first_results(part)
            for row, count in enumerate(part.counts):
                if count > 1:
                    self._run_alone(part, row, count, results)
            return results.tensors

    def copy_rows(self, copies: RowCopies) -> None:
        """See `StageSession.copy_rows`."""
        with self._stream.active():
            self.caches.copy_rows(copies)

    def _first_results(self, part: StepPart) -> StepResults:
        """StepResults that are right for rows of one token. They run first: see the class."""
        sizes, device = (part.size, part.step.length, part.step.wanted), self._stream.device
        outputs = self._candidates.signature.outputs
        results = StepResults(outputs, {item.name: item.zeros(*sizes, device) for item in outputs})
        if 1 in part.counts:
            results.take(self._run_together(part))
        return results

    def _run_together(self, part: StepPart) -> StepResults:
        """Run the rows of one token; returns the results of the part's rows, one position each."""
        frame = self._decode_frame
        for name, tensor in frame.received.items():
            tensor[part.rows] = part.received[name][:, :1]
        self._run(self._decoder, frame, part.ones(self._batch, self.caches.full), capture=self._capture)
        made = {name: tensor[part.rows] for name, tensor in frame.outputs.items()}
        return StepResults(self._candidates.signature.outputs, made)

    def _run_alone(self, part: StepPart, row: int, count: int, results: StepResults) -> None:
        """Run the tokens of a row, in the chunks that the plans take best, and put into `results` what they give."""
        positions = part.step.logit_pos[row].clamp(max=count - 1)
        for chunk in self._candidates.chunks(self.caches.size, count, sorted(set(positions.tolist()))):
            chosen = Chosen.of(positions, chunk.start, chunk.end)
            caches = self.caches.row(part.rows.start + row)
            frame = self._inputs.frame(chunk.runner.plan.signature, 1, chunk.width, chunk.logits, caches)
            for item in self._candidates.signature.received:
                chosen.give(item, part.received[item.name][row], frame.received[item.name][0])
            self._run(chunk.runner, frame, part.chunk(row, chosen), capture=False)
            for item in self._candidates.signature.outputs:
                chosen.take(item, frame.outputs[item.name][0], results.tensors[item.name][row])

    def _run(self, candidate: Candidate, frame: Frame, step: Step, *, capture: bool) -> None:
        self._inputs.write(frame, step)
        candidate.plan.context(candidate.profile).run(frame, capture=capture)

    def _prepare(self, size: CacheSize) -> None:
        """Choose and make what decodes with caches of that size."""
        self._decoder = self._candidates.decode(size)
        self._decoder.plan.context(self._decoder.profile)
        signature = self._decoder.plan.signature
        self._decode_frame = self._inputs.frame(signature, size.rows, 1, 1, self.caches.tensors)
