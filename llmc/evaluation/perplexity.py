"""Perplexity of a model on a text, alone or beside another model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from compiler.errors import EngineError, RequestError
from compiler.plugins import load_plugins
from compiler.progress import Progress
from llmc.evaluation.open_model import Runner, longest_input, opened
from llmc.evaluation.scoring import Score, Scorer, rows_at_once, windows
from llmc.progress import Phases
from runtime.engine_dir.manifest import no_tokenizer, opens_as_engine
from runtime.generation.engine import Engine

LONGEST_WINDOW = 512
"""How many tokens a window has at most, if nothing is said."""


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text.

    Attributes:
        nll: mean negative log-likelihood of a scored token, in nats.
        tokens: how many tokens were scored.
        kl: mean divergence (Kullback and Leibler) from the other model's distributions to this one's, in nats; None
            without another model.
        agreement: the share of tokens for which both models prefer the same one; None without another model.
    """

    nll: float
    tokens: int
    kl: float | None = None
    agreement: float | None = None

    @property
    def ppl(self) -> float:
        """The perplexity, `exp(nll)`; infinite if that is no number of Python's."""
        try:
            return math.exp(self.nll)
        except OverflowError:
            return math.inf

    def to_json(self) -> dict[str, float | int | None]:
        """The fields as a JSON object, without those that are None; a result that is not finite is null."""
        numbers = {"ppl": self.ppl, "tokens": self.tokens, "nll": self.nll, "kl": self.kl, "agreement": self.agreement}
        return {key: value if math.isfinite(value) else None for key, value in numbers.items() if value is not None}


def measure_perplexity(
    model: str | Path,
    text: str,
    *,
    window: int | None = None,
    against: str | Path | None = None,
    dtype: str | None = None,
    add_special_tokens: bool = True,
    executor: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    check_files: bool = True,
    plugins: Sequence[str | Path] = (),
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> Perplexity:
    """The perplexity of a model on a text.

    The text's tokens are cut into windows that do not overlap. Each begins with no history, and every token but its
    first is scored; a shorter window at the end counts if it has two tokens.

    Args:
        model: an engine directory; or a checkpoint (a folder, or an id of the hub), which is compiled for the moment.
        text: the text.
        window: how many tokens a window has; the model's context length if None, at most 512.
        against: another engine or checkpoint, to compare the distributions with.
        dtype: the element type that checkpoints are computed in; float32 if None.
        add_special_tokens: whether the text gets the tokens that the tokenizer puts around a text.
        executor: as of `llmc.load`.
        device: as of `llmc.load`.
        threads: as of `llmc.load`.
        check_files: whether to compare the digest of every file of an engine.
        plugins: as of `llmc.load`.
        progress: called as work proceeds; see `compiler.progress.Progress`.
        note: called with sentences for the user; warnings if None.

    Raises:
        RequestError: if the text is too short, there is no tokenizer, or the window does not fit.
        EngineError: if the models do not have one vocabulary.
        LlmcError: if a model cannot be compiled or loaded.
    """
    report = Phases(progress)
    told: set[str] = set()

    def tell(text: str) -> None:
        if text not in told:  # two models may have the same to say
            told.add(text)
            (note or warnings.warn)(text)

    for sentence in load_plugins(plugins):
        tell(sentence)
    models = [model] if against is None else [model, against]
    _check_dtype(models, dtype, tell)
    size = _window(models, window, tell)
    runner = Runner(executor, device, threads, check_files)
    with ExitStack() as stack:
        engines = [
            stack.enter_context(opened(one, size, runner, dtype=dtype, progress=report, note=tell)) for one in models
        ]
        pieces = windows(_tokens(models, engines, text, add_special_tokens), size)
        if not pieces:
            raise RequestError("the text has fewer than two tokens, so none can be scored", hint="give a longer text")
        return _measure(engines, pieces, size, report)


def _check_dtype(models: Sequence[str | Path], dtype: str | None, note: Callable[[str], None]) -> None:
    """Say of a `dtype` that it is not for engines, which have their own; RequestError if there is nothing else."""
    engines = [model for model in models if opens_as_engine(model)]
    if dtype is None or not engines:
        return
    if len(engines) == len(models):
        raise RequestError(
            f"{engines[0]} is an engine, whose element type is fixed", hint="leave out --dtype, or give the checkpoint"
        )
    note(f"--dtype is for the checkpoint: {engines[0]} is an engine, whose element type is fixed")


def _window(models: Sequence[str | Path], wanted: int | None, note: Callable[[str], None]) -> int:
    """How many tokens a window has."""
    lengths = [longest_input(model) for model in models]
    if wanted is None:
        usual = min(LONGEST_WINDOW, *(context for context, _ in lengths))
        size = min(usual, *(most for _, most in lengths))
        if size < usual:
            note(f"windows have {size} tokens, not {usual}: an engine takes no more at once")
    else:
        size = wanted
        if size < 2:
            raise RequestError(f"the window is {size} tokens; it must be at least 2")
        for model, (context, most) in zip(models, lengths, strict=True):
            if size > most:
                larger = f", or compile with --max-input {size}" * (most < size <= context)
                raise RequestError(
                    f"the window is {size} tokens; {model} takes at most {most}",
                    hint=f"use --window {most} or less{larger}",
                )
    if size < 2:
        raise RequestError(
            "an engine takes one token at once, so none can be scored", hint="compile it with --max-input 2 or more"
        )
    return size


def _tokens(models: Sequence[str | Path], engines: Sequence[Engine], text: str, add_special_tokens: bool) -> list[int]:
    """The text's tokens; a model without a tokenizer takes those of the other.

    Raises:
        RequestError: if no model has a tokenizer, or an id is not the model's.
        EngineError: if the models' vocabularies differ, in size or in what they make of the text.
    """
    sizes = [engine.manifest.vocab_size for engine in engines]
    if len(set(sizes)) > 1:
        raise EngineError(
            f"{models[0]} has a vocabulary of {sizes[0]} tokens and {models[1]} one of {sizes[1]}",
            hint="compare models that share a tokenizer",
        )
    tokenizers = [engine.tokenizer for engine in engines if engine.tokenizer]
    found = [tokenizer.encode(text, add_special_tokens=add_special_tokens) for tokenizer in tokenizers]
    if not found:
        reason, mend = no_tokenizer(engines[0].manifest)
        raise RequestError(f"the text has no tokens, for {models[0]} has no tokenizer{reason}", hint=mend)
    if any(tokens != found[0] for tokens in found):
        raise EngineError(
            f"the tokenizers of {models[0]} and {models[1]} differ on this text",
            hint="compare models that share a tokenizer",
        )
    if beyond := [token for token in found[0] if token >= sizes[0]]:
        raise RequestError(
            f"the tokenizer gives the id {beyond[0]}, but {models[0]} has only {sizes[0]} tokens",
            hint="the tokenizer and the weights belong to different models",
        )
    return found[0]


@torch.inference_mode()
def _measure(engines: Sequence[Engine], pieces: Sequence[Sequence[int]], size: int, report: Progress) -> Perplexity:
    rows = rows_at_once(engines, size, len(pieces))
    scorers = [Scorer(engine, size, rows) for engine in engines]
    score = Score()
    for start in range(0, len(pieces), rows):
        report("scoring the text", start, len(pieces))
        batch = pieces[start : start + rows]
        for window, logits in zip(batch, zip(*(scorer.logits(batch) for scorer in scorers), strict=True), strict=True):
            score.add(window, logits[0], logits[1] if len(logits) > 1 else None)
    report("scoring the text", len(pieces), len(pieces))
    mean = Perplexity(score.nll / score.tokens, score.tokens)
    if len(engines) == 1:
        return mean
    return Perplexity(mean.nll, mean.tokens, score.kl / score.tokens, score.agreed / score.tokens)
