"""Adapters that hold virtual tokens, whatever wrote them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compiler.frontends.composed import SourceTensor

EMBEDDED: Final = ("PROMPT_TUNING", "P_TUNING")
PREFIX: Final = "PREFIX_TUNING"
KINDS = (*EMBEDDED, PREFIX)
"""How virtual tokens are trained, as PEFT calls it."""


@dataclass(frozen=True)
class PromptAdapter:
    """An adapter that holds virtual tokens.

    Attributes:
        path: its folder or file, absolute.
        kind: one of `KINDS`.
        virtual_tokens: how many virtual tokens it has.
        width: the width of an embedding; of a prefix, of the keys of one layer, all heads together.
        layers: how many layers its model has; None if nothing says so.
        heads: how many heads the model has, of a prefix how many key heads; None if nothing says so.
        table: the tensor, `[virtual_tokens, width]` or `[virtual_tokens, layers * 2 * width]`; its file is absolute. Of
            a prefix, the columns are layer by layer the keys, then the values, of each head. One that is stored in
            parts is made of them.
    """

    path: Path
    kind: str
    virtual_tokens: int
    width: int
    layers: int | None
    heads: int | None
    table: SourceTensor

    @property
    def is_prefix(self) -> bool:
        """Whether it holds keys and values, not embeddings."""
        return self.kind == PREFIX
