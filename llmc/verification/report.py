"""What a verification found, as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TokenDifference:
    """A step at which the engine chose another token than the reference.

    Attributes:
        step: the step, from 0.
        token: the engine's token.
        reference: the reference's token.
        gap: by how much the reference prefers its own, as a share of the RMS of its logits.
        tie: whether the gap is so small that rounding may decide.
    """

    step: int
    token: int
    reference: int
    gap: float
    tie: bool


@dataclass(frozen=True)
class Run:
    """A prompt that the engine extended.

    Attributes:
        prompt: the number of the prompt, from 1.
        mode: `alone`, `batch` if it ran together with all others, or the name of the TensorRT plan that it tried.
        prompt_tokens: how many tokens the prompt has.
        token_ids: the tokens that the engine chose.
        step_errors: for each of them the relative error of the logits it was chosen from: RMS of the difference over
            RMS of the reference, which was given the same tokens before it.
        error: the same over all steps together.
        differences: where the tokens differ.
        tolerance: the largest error that passes: that of the verification, or, where it is more, what quantized
            activations and caches explain.
        rank: whose logits these are: of an engine of several ranks, those of the worst.
    """

    prompt: int
    mode: str
    prompt_tokens: int
    token_ids: tuple[int, ...]
    step_errors: tuple[float, ...]
    error: float
    differences: tuple[TokenDifference, ...]
    tolerance: float
    rank: int = 0

    @property
    def badness(self) -> tuple[int, float, float]:
        """What tells which of two runs is worse: tokens that differ, then how far the logits are off."""
        return len(self.failures), self.error / self.tolerance, self.error

    @property
    def failures(self) -> tuple[TokenDifference, ...]:
        """The differences that rounding does not explain."""
        return tuple(difference for difference in self.differences if not difference.tie)

    @property
    def equal(self) -> int:
        """How many tokens are those of the reference."""
        return len(self.token_ids) - len(self.differences)

    @property
    def is_off(self) -> bool:
        """Whether the logits are off by more than rounding."""
        return self.error > self.tolerance

    @property
    def first_bad_step(self) -> int | None:
        """The first step that is off by more than rounding; None if all are within."""
        if not self.is_off:
            return min((difference.step for difference in self.failures), default=None)
        return next((step for step, error in enumerate(self.step_errors) if error > self.tolerance), None)


@dataclass(frozen=True)
class Divergence:
    """The first operation, in the order of the graph, whose value is off by more than the tolerance.

    Attributes:
        found: which two computations differ there, in words.
        op: the operation's name in the IR.
        kind: its kind.
        origin: the module of the checkpoint that it came from.
        step: the step of the model, from 0, which is the prompt's.
        error: the relative error of the value.
        operands_error: the largest relative error among its operands.
        shape: the value's shape.
        reference_shape: the shape that it should have.
        plan: the TensorRT plan that ran; empty if none did.
    """

    found: str
    op: str
    kind: str
    origin: str
    step: int
    error: float
    operands_error: float
    shape: tuple[int, ...]
    reference_shape: tuple[int, ...]
    plan: str = ""


@dataclass(frozen=True)
class Verification:
    """Whether an engine computes what a reference computes, and where it does not.

    Attributes:
        engine: the engine directory.
        executor: what ran it.
        reference: what it was compared with, in words.
        dtype: the element type that the tolerance is for.
        tolerance: the largest relative error of logits that passes; a run may have a larger one.
        runs: each prompt alone, then each in one batch, then those of each plan.
        plans: the TensorRT plans each of which was tried by itself.
        divergence: the first operation that differs, if the engine failed and it was found.
        notes: sentences for the user.
    """

    engine: str
    executor: str
    reference: str
    dtype: str
    tolerance: float
    runs: tuple[Run, ...]
    plans: tuple[str, ...] = ()
    divergence: Divergence | None = None
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether all logits are within the tolerance, and all tokens equal but for ties."""
        return self.failed_run is None

    @property
    def failed_run(self) -> Run | None:
        """The first run that does not hold."""
        return next((run for run in self.runs if run.is_off or run.failures), None)

    @property
    def error(self) -> float:
        """The relative error of the logits of the worst run."""
        return max(run.error for run in self.runs)

    @property
    def tokens(self) -> int:
        """How many tokens were compared."""
        return sum(len(run.token_ids) for run in self.runs)

    @property
    def tokens_equal(self) -> int:
        """How many of them are those of the reference."""
        return sum(run.equal for run in self.runs)

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object; an error that is no number is null."""
        return {
            "engine": self.engine,
            "executor": self.executor,
            "reference": self.reference,
            "dtype": self.dtype,
            "tolerance": self.tolerance,
            "holds": self.holds,
            "error": _number(self.error),
            "tokens": self.tokens,
            "tokens_equal": self.tokens_equal,
            "ties": sum(difference.tie for run in self.runs for difference in run.differences),
            "plans": list(self.plans),
            "runs": [_plain(run) for run in self.runs],
            "divergence": _plain(self.divergence) if self.divergence else None,
            "notes": list(self.notes),
        }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(thing: Any) -> Any:
    """Dataclasses as objects and tuples as lists, at every depth."""
    if hasattr(thing, "__dataclass_fields__"):
        return dict(_fields(thing))
    if isinstance(thing, tuple):
        return [_plain(item) for item in thing]
    return _number(thing) if isinstance(thing, float) else thing


def _fields(thing: Any) -> Iterator[tuple[str, Any]]:
    for name in thing.__dataclass_fields__:
        yield name, _plain(getattr(thing, name))
