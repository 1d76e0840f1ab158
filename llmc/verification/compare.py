"""Comparing what an engine computed with what a graph, interpreted, says."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from compiler.ir.chunks import chunk_length, in_chunks
from compiler.ir.comparison import relative_error
from compiler.ir.graph import Graph
from compiler.ir.packed_step import PackedStep, SequenceStep
from compiler.ir.paged_layout import PagedLayout, layout_of
from compiler.ir.step import LOGITS, Step
from compiler.ir.virtual_ranks import VirtualRanks
from llmc.verification.report import Run, TokenDifference
from llmc.verification.test_cases import Recorder, TestCase
from llmc.verification.tolerance import unrounded
from runtime.executors.memory import memory_for


class Reference:
    """A graph, or those of all ranks of a mesh, interpreted: the logits that a right engine has.

    Args:
        graphs: the graph of each rank, in order.
        accumulate: the type in which the interpreter computes, `torch.float32` or `torch.float64`.
    """

    def __init__(self, *graphs: Graph, accumulate: torch.dtype = torch.float32) -> None:
        self._ranks = VirtualRanks.of(graphs, accumulate=accumulate)
        self._known: dict[tuple[int, ...], Tensor] = {}
        plain = [graph for graph in map(unrounded, graphs) if graph is not None]
        self._plain = Reference(*plain, accumulate=accumulate) if plain else None

    def rounding(self, prompt: Sequence[int], tokens: Sequence[int]) -> float:
        """What the logits may differ by because activations and caches are quantized; 0 if none are.

        That is twice what quantizing them changes: see `llmc.verification.tolerance`.
        """
        if self._plain is None:
            return 0.0
        return 2 * relative_error(self.logits(prompt, tokens), self._plain.logits(prompt, tokens))

    def logits(self, prompt: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """The logits from which each of `tokens` is to be chosen, `[tokens, vocabulary]`, computed as one prompt's."""
        given = (*prompt, *tokens[:-1])
        key = (len(prompt), *given)
        if key not in self._known:
            positions = torch.arange(len(prompt) - 1, len(given), dtype=torch.int32)
            self._known[key] = self._run(Step.of_prompts([given]).wanting(positions[None]))[0].float()
        return self._known[key]

    def _run(self, step: Step) -> Tensor:
        """The logits of a first step over one row, `[1, R, vocabulary]`."""
        length = step.length
        layout = layout_of(self._ranks.graphs[0])
        if isinstance(layout, PagedLayout):
            return self._run_packed(step, layout.blocks_for(length))
        chunk = min(chunk_length(graph, 1, length, holds_scores=lambda op: True) for graph in self._ranks.graphs)
        states = self._ranks.empty_states(1, length)

        def run(part: Step) -> Tensor:
            nonlocal states
            outputs, states = self._ranks(part._asdict(), states)
            return outputs[LOGITS]

        with memory_for(f"interpreting {length} tokens"):
            return in_chunks(step, chunk, run)

    def _run_packed(self, step: Step, blocks: int) -> Tensor:
        """The same where caches are paged: the row is all that is in the pools."""
        row = SequenceStep(0, step.token_ids[0].tolist(), range(blocks), step.logit_pos[0].tolist())
        with memory_for(f"interpreting {step.length} tokens"):
            outputs, _ = self._ranks(PackedStep.of([row])._asdict(), self._ranks.empty_pools(blocks))
        return outputs[LOGITS][None]


# Two logits with errors of a normal distribution differ by more than this many of its deviations in 1 of 400 cases.
_TWO_ERRORS = 3 * math.sqrt(2)


def compare(
    test_case: TestCase, recorder: Recorder, reference: Reference, tolerance: float, own: Reference | None = None
) -> list[Run]:
    """The logits and tokens of each prompt of a test case against those of the reference: of several rows the worst.

    Args:
        test_case: the requests.
        recorder: what an executor made of them.
        reference: what is right.
        tolerance: the largest relative error of logits.
        own: the graph that was executed, if logits may also be off by what quantization while it runs explains.
    """
    runs: dict[int, Run] = {}
    for index, (number, request) in enumerate(zip(test_case.numbers, test_case.requests, strict=True)):
        tokens, found = recorder.tokens[index], torch.stack(recorder.logits[index])
        expected = reference.logits(request.token_ids, tokens)
        noise = own.rounding(request.token_ids, tokens) if own else 0.0
        errors = tuple(map(relative_error, found, expected))
        ties = [max(tolerance, _TWO_ERRORS * min(error, noise)) for error in errors]
        run = Run(
            prompt=number,
            mode=test_case.mode,
            prompt_tokens=len(request.token_ids),
            token_ids=tuple(tokens),
            step_errors=errors,
            error=relative_error(found, expected),
            differences=_differences(tokens, expected, ties),
            tolerance=max(tolerance, noise),
        )
        runs[number] = max(
            run, runs.get(number, run), key=lambda one: (len(one.failures), one.error / one.tolerance, one.error)
        )
    return list(runs.values())


def _differences(tokens: Sequence[int], expected: Tensor, ties: Sequence[float]) -> tuple[TokenDifference, ...]:
    """Where `tokens` are not what the logits `[tokens, vocabulary]` rank first; rounding explains gaps of `ties`."""
    best = expected.argmax(-1).tolist()
    differences = []
    for step, (token, wanted) in enumerate(zip(tokens, best, strict=True)):
        if token != wanted:
            logits = expected[step].double()
            rms = logits.square().mean().sqrt().item()
            gap = (logits[wanted] - logits[token]).item() / rms if rms else 0.0
            differences.append(TokenDifference(step, token, wanted, gap, tie=gap <= ties[step]))
    return tuple(differences)
