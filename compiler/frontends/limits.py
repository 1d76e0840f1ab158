"""How large a batch, a prompt and a sequence the lifted graph accepts."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.errors import ConfigError
from compiler.ir.graph import DimRange
from compiler.ir.step import StepDim

_MOST = 2**31 - 1


@dataclass(frozen=True)
class Limits:
    """The largest sizes of one step.

    Attributes:
        max_batch: rows.
        max_input: new tokens per row; None for `max_seq`.
        max_seq: tokens per row, past and new together; None for the model's context length.
    """

    max_batch: int = 8
    max_input: int | None = None
    max_seq: int | None = None

    def dims(self, context: int, learned: int | None) -> dict[str, DimRange]:
        """The ranges of the step's dims: B rows, S new tokens, C cache slots and R rows of logits.

        Args:
            context: the length that the model was trained for.
            learned: how many positions the model has embeddings for; None if positions are computed.

        Raises:
            ConfigError: if a limit is below 1, or beyond the learned positions.
        """
        seq = context if self.max_seq is None else self.max_seq
        new = seq if self.max_input is None else self.max_input
        for name, value in (("max_batch", self.max_batch), ("max_seq", seq), ("max_input", new)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")
            if value > _MOST:
                raise ConfigError(f"{name} is {value}; it must be at most {_MOST}, as positions have 32 bits")
        if learned is not None and seq > learned:
            hint = f"--max-seq {learned}"
            if self.max_input is not None and self.max_input > learned:
                hint += f" and --max-input {learned}"
            raise ConfigError(
                f"max_seq is {seq}, but the model has learned only {learned} positions",
                hint=f"use {hint} or less; longer sequences need a model with rotary or ALiBi positions",
            )
        if new > seq:
            raise ConfigError(
                f"max_input is {new}, more than max_seq, which is {seq}", hint=f"use --max-input {seq} or less"
            )
        batch = self.max_batch
        return {
            StepDim.BATCH: DimRange(1, batch, batch),
            StepDim.LENGTH: DimRange(1, 1, new),
            StepDim.CAPACITY: DimRange(1, seq, seq),
            StepDim.WANTED: DimRange(1, 1, new),
        }
