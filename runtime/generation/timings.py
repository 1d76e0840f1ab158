"""Where the time of generation goes."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class Timings:
    """Where the time went. A step in which any prompt is computed counts as prefill, with all its tokens.

    A request that loses its place in the caches to others (`preemptions`) is computed again, as a prompt.
    """

    prefill_seconds: float = 0.0
    prefill_tokens: int = 0
    decode_seconds: float = 0.0
    decode_tokens: int = 0
    steps: int = 0
    preemptions: int = 0

    def add(self, seconds: float, tokens: int, *, prefill: bool) -> None:
        """Count one step."""
        self.steps += 1
        if prefill:
            self.prefill_seconds += seconds
            self.prefill_tokens += tokens
        else:
            self.decode_seconds += seconds
            self.decode_tokens += tokens

    def include(self, other: Timings) -> None:
        """Count the steps of another."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    @property
    def decode_rate(self) -> float:
        """New tokens a second over all rows, of the steps without a prompt; 0 if there were none."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0.0
