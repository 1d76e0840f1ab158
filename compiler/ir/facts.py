"""What the facts of a graph say about its model."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.ir.graph import Fact


def most_positions(facts: Mapping[str, Fact]) -> int | None:
    """How many tokens a sequence may have, however the model is compiled: those that it has learned positions for.

    None if positions are computed, so that there may be any number, or if the facts do not say.
    """
    context = facts.get("context_length")
    return context if facts.get("positions") == "learned" and isinstance(context, int) else None


def larger_limits(
    facts: Mapping[str, Fact], *, max_input: int, max_seq: int, prompt: int = 0, sequence: int = 0
) -> str | None:
    """The options that compile a model for prompts and sequences that its engine is too small for.

    Args:
        facts: what is known about the model.
        max_input: how many tokens a prompt may have now.
        max_seq: how many a sequence may have now.
        prompt: how many tokens per prompt should have.
        sequence: how many a sequence should have.

    Returns:
        Such as `--max-input 100 --max-seq 120`; None if the model cannot do it.
    """
    most, sequence = most_positions(facts), max(sequence, prompt)
    if most is not None and sequence > most:
        return None
    options = [f"--max-input {prompt}"] * (prompt > max_input) + [f"--max-seq {sequence}"] * (sequence > max_seq)
    return " ".join(options) or None
