"""Pipelines as text, such as `quant=awq:group=128,kv=int8,tp=2`; see `compiler.options.grammar`."""

from __future__ import annotations

from collections.abc import Iterable

from compiler.options import Grammar
from compiler.passes.protocol import Pass, default_name, maker_of
from compiler.passes.registry import PassInfo, find_pass, info_of

_GRAMMAR = Grammar(PassInfo, "pass", "passes", "pipeline", find_pass)


def parse_pipeline(text: str) -> tuple[Pass, ...]:
    """The passes that a text names, in order; none for an empty text.

    Raises:
        PassError: showing the place, if it names no pass or an option is unknown, missing or has no such value.
    """
    return tuple(_GRAMMAR.read(text))


def canonical(passes: Iterable[Pass]) -> str:
    """The text of a pipeline with every pass in its canonical spelling."""
    return ",".join(map(spell, passes))


def spell(pass_: Pass) -> str:
    """The canonical spelling of one pass. One that is not registered is called by its own name."""
    info = info_of(pass_)
    return default_name(maker_of(pass_)) if info is None else info.spell(pass_)
