"""Tracing: two computations of the same tokens side by side, value by value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from compiler.errors import RequestError
from compiler.ir.chunks import chunks
from compiler.ir.step import R, S, Step, StepDim, all_positions
from compiler.plugins import load_plugins
from compiler.progress import Progress
from llmc.progress import Phases
from llmc.seeds import check_seed
from llmc.tracing.lockstep import run_in_lockstep
from llmc.tracing.pairs import Pair, find_pairs
from llmc.tracing.parting import Tolerances, by_depth, find_parting, layer_of
from llmc.tracing.report import Comparison, Site, ValueTrace
from llmc.tracing.sides import Side, open_side
from llmc.tracing.source import Source, Traced
from llmc.tracing.statistics import Tally

_RANDOM = 16
"""How many random tokens a prompt has, where none is given."""


def trace(
    a: str | Path,
    b: str | Path,
    prompt: str | Sequence[int] | None = None,
    *,
    tolerance: float | None = None,
    seed: int = 0,
    dummy_weights: bool = False,
    dtype: str = "float32",
    add_special_tokens: bool = True,
    plugins: Sequence[str | Path] = (),
    progress: Progress | None = None,
) -> ValueTrace:
    """Run two models on the same tokens, and find the first op at which they part.

    Each side is an `.ir` file, an engine (its graphs, interpreted, of all ranks), a checkpoint (its graph as lifted,
    interpreted), or `transformers:` and a checkpoint, which `transformers` then runs. Both advance in turns; values are
    reduced to statistics as they come.

    Args:
        a: one side.
        b: the other, against whose values errors are measured.
        prompt: a text or token ids; 16 random tokens if None.
        tolerance: the largest relative error (RMS of the difference over RMS of B's value) of a value that passes; None
            derives one for each value from the element types and its depth.
        seed: what a random prompt is drawn from.
        dummy_weights: whether to make the weights of checkpoints up, so that `config.json` suffices.
        dtype: the element type that `transformers` computes in.
        add_special_tokens: whether a text gets the tokens that the tokenizer puts around a text.
        plugins: as of `llmc.load`.
        progress: called as values are compared; see `compiler.progress.Progress`.

    Raises:
        RequestError: if the two have different vocabularies or no value in common, or the prompt does not fit them.
        LlmcError: if a side cannot be opened or run.
    """
    check_wishes(seed, tolerance)
    notes = load_plugins(plugins)
    report = Phases(progress)
    sides = [open_side(each, dummy_weights=dummy_weights, dtype=dtype, note=notes.append) for each in (a, b)]
    _check_vocabularies((str(a), str(b)), sides)
    token_ids = _token_ids(prompt, sides, seed, add_special_tokens)
    for name, side in zip((a, b), sides, strict=True):
        _check_prompt(str(name), side, token_ids)
    with report.phase("open"):
        ours, theirs = (side.load() for side in sides)
    comparing = _Comparing(ours, theirs, _steps(token_ids, ours, theirs), tolerance, report)
    comparing.run()
    comparisons = comparing.comparisons()
    said = [*notes, *_of_families(sides)]
    if ours.quantizes or theirs.quantizes:
        said.append(
            "activations or caches are quantized while the model runs, which tolerances do not allow for: --tolerance X"
        )
    return ValueTrace(
        a=ours.words,
        b=theirs.words,
        token_ids=tuple(token_ids),
        dtype=comparing.dtype,
        tolerance=tolerance,
        comparisons=comparisons,
        parting=find_parting(ours.graphs, comparisons),
        depths=by_depth(comparisons),
        only_a=_alone(ours, {each.a.name for each in comparisons}),
        only_b=_alone(theirs, {each.b.name for each in comparisons}),
        notes=tuple(dict.fromkeys(said)),
    )


def check_wishes(seed: int, tolerance: float | None) -> None:
    """RequestError, naming what is wrong, if an argument of `trace` can be right for no two models."""
    check_seed(seed, RequestError)
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise RequestError(
            f"the tolerance is {tolerance}; it must be 0 or more", hint="leave it out to have it derived"
        )


class _Comparing:
    """The pairs of two sides, and what has been seen of each."""

    def __init__(
        self, a: Source, b: Source, steps: Sequence[Step], tolerance: float | None, progress: Progress
    ) -> None:
        self._a, self._b, self._steps, self._tolerance, self._progress = a, b, steps, tolerance, progress
        self.pairs = {(pair.a, pair.b): pair for pair in find_pairs(a, b)}
        if not self.pairs:
            raise RequestError(
                f"no value of {a.words} has a counterpart in {b.words}", hint="compare graphs of one checkpoint"
            )
        self.dtype = max((a.dtype, b.dtype), key=lambda name: torch.finfo(getattr(torch, name)).eps)
        self._tallies = {key: Tally() for key in self.pairs}
        self._done = 0

    def run(self) -> None:
        """Run both sides."""
        total = len(self.pairs) * len(self._steps)

        def compare(step: int, name: str, found: Sequence[Tensor], other: str, expected: Sequence[Tensor]) -> None:
            pair = self.pairs[name, other]
            self._tallies[name, other].add(*pair.tensors(found, expected), self._first(pair, self._steps[step]))
            self._done += 1
            self._progress("trace", min(self._done, total), total)

        run_in_lockstep(self._a, self._b, self._steps, list(self.pairs), compare)
        self._progress("trace", total, total)

    def _first(self, pair: Pair, step: Step) -> tuple[int, ...]:
        """Where a part of a value begins: at the first token of the step, along the axes of tokens."""
        shape, past = self._a.values[pair.a].type.shape, int(step.past_len[0])
        own = tuple(past if dim in (S, R) else 0 for dim in shape)
        return (0, *own) if pair.fits[0].stacked and self._a.ranks > 1 else own

    def comparisons(self) -> tuple[Comparison, ...]:
        """The comparisons of what both sides have computed."""
        tolerances = Tolerances(self.dtype, self._tolerance)
        made = []
        for key, tally in self._tallies.items():
            a, b = self._a.values[key[0]], self._b.values[key[1]]
            limit = tolerances.of(a, b)
            if not tally.is_empty:
                layer, statistics, difference = layer_of(a.name), tally.statistics(), tally.difference()
                made.append(
                    Comparison(_site(a), _site(b), layer, a.constant, tally.shape, statistics, difference, limit)
                )
        return tuple(made)


def _site(traced: Traced) -> Site:
    origin = traced.op.origin
    return Site(traced.name, traced.op.kind.name, origin.module, origin.passes, str(traced.type))


def _alone(source: Source, compared: set[str]) -> tuple[Site, ...]:
    return tuple(_site(each) for each in source.values.values() if not each.constant and each.name not in compared)


def _steps(token_ids: Sequence[int], *sources: Source) -> list[Step]:
    """The prompt in steps that are short enough for both sides, each with the logits of all of its tokens."""
    length = len(token_ids)
    whole = Step.of_prompts([token_ids]).wanting(all_positions(1, length))
    most = min(source.chunk(length) for source in sources)
    return [whole] if length <= most else [chunk.step for chunk in chunks(whole, most)]


def _of_families(sides: Sequence[Side]) -> list[str]:
    """A note if the two are models of other families."""
    names = [str(side.graph.facts.get("family", "")) for side in sides]
    if names[0] == names[1]:
        return []
    return [f"A is a model of the family {names[0]}, B of {names[1]}: values of one name may mean different things"]


def _check_vocabularies(names: Sequence[str], sides: Sequence[Side]) -> None:
    sizes = [int(side.graph.facts["vocab_size"]) for side in sides]
    if sizes[0] != sizes[1]:
        raise RequestError(
            f"{names[0]} has a vocabulary of {sizes[0]} tokens and {names[1]} one of {sizes[1]}",
            hint="compare what was made from one checkpoint",
        )


def _token_ids(
    prompt: str | Sequence[int] | None, sides: Sequence[Side], seed: int, add_special_tokens: bool
) -> list[int]:
    if prompt is None:
        generator = torch.Generator().manual_seed(seed)
        facts = [side.graph.facts for side in sides]
        length = min(_RANDOM, *(int(each["context_length"]) for each in facts))
        return torch.randint(int(facts[0]["vocab_size"]), (length,), generator=generator).tolist()
    if not isinstance(prompt, str):
        return list(prompt)
    read: Callable[..., object] | None = next((side.tokenizer for side in sides if side.tokenizer), None)
    if read is None:
        raise RequestError("neither side has a tokenizer for --prompt", hint="give token ids: --prompt-ids 1,2,3")
    tokenizer = next(side.tokenizer for side in sides if side.tokenizer)()
    return tokenizer.encode(prompt, add_special_tokens=add_special_tokens)


def _check_prompt(name: str, side: Side, token_ids: Sequence[int]) -> None:
    """RequestError if a side cannot take the tokens."""
    vocabulary = int(side.graph.facts["vocab_size"])
    room = min([int(side.graph.facts["context_length"]), *_capacity(side)])
    if not token_ids:
        raise RequestError("the prompt has no tokens", hint="give at least one")
    if (bad := next((token for token in token_ids if not 0 <= token < vocabulary), None)) is not None:
        raise RequestError(
            f"the token id {bad} is outside of the vocabulary of {name}", hint=f"use ids from 0 to {vocabulary - 1}"
        )
    if len(token_ids) > room:
        raise RequestError(
            f"the prompt has {len(token_ids)} tokens, and {name} takes {room}", hint="give a shorter prompt"
        )


def _capacity(side: Side) -> list[int]:
    """How many tokens a row of the caches holds at most."""
    found = side.graph.dims.get(StepDim.CAPACITY)
    return [found.max] if found else []
