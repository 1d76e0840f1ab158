"""What a trace has found."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llmc.tracing.statistics import Difference, Statistics, json_number


@dataclass(frozen=True)
class Site:
    """A value of one side, and the op that computes it.

    Attributes:
        name: the value's name.
        kind: the kind of the op.
        module: the module of the checkpoint that it comes from; empty if from none.
        passes: the passes that made or changed it.
        type: its type, such as `f16[B,S,128]`.
    """

    name: str
    kind: str
    module: str
    passes: tuple[str, ...]
    type: str

    def __str__(self) -> str:
        came = f" from {self.module}" if self.module else ""
        by = f" (changed by {', '.join(self.passes)})" if self.passes else ""
        return f"{self.kind} %{self.name}{came}{by}"


@dataclass(frozen=True)
class Comparison:
    """A value of the first side, A, against its counterpart in the second, B.

    Attributes:
        a: the value in A.
        b: the value in B.
        layer: the number of the layer that it belongs to; None before, behind and outside of layers.
        constant: whether it is a weight, or computed from weights alone.
        shape: the shape of what was compared in the latest part of the prompt.
        statistics: of both values.
        difference: how far they are apart.
        tolerance: the largest relative error that rounding explains.
    """

    a: Site
    b: Site
    layer: int | None
    constant: bool
    shape: tuple[int, ...]
    statistics: tuple[Statistics, Statistics]
    difference: Difference
    tolerance: float

    @property
    def parts(self) -> bool:
        """Whether the two differ by more than the tolerance."""
        return self.difference.error > self.tolerance


@dataclass(frozen=True)
class Parting:
    """The first op at which two computations part.

    Attributes:
        at: the comparison of its values.
        operands: the comparisons of the values that it is computed from; through ops without a counterpart.
        between: the values of A that lie between those and it, and have no counterpart in B: the fault may be there.
        again: the values behind it that agree again, though they are computed from it.
    """

    at: Comparison
    operands: tuple[Comparison, ...]
    between: tuple[str, ...]
    again: tuple[str, ...]


@dataclass(frozen=True)
class Depth:
    """The errors of the values of one layer, weights aside.

    Attributes:
        layer: the number of the layer; None for what is before all layers, or behind them.
        words: what the row is, such as `layer 3`.
        last: the comparison of the last value.
        worst: the comparison of the value with the largest relative error.
    """

    layer: int | None
    words: str
    last: Comparison
    worst: Comparison


@dataclass(frozen=True)
class ValueTrace:
    """Two computations of the same tokens, value by value.

    Attributes:
        a: the first side, in words.
        b: the second, against which errors are measured.
        token_ids: the prompt.
        dtype: the element type that tolerances are for.
        tolerance: the tolerance that was asked for; None if each value has its own.
        comparisons: the values that have counterparts, in the order of A (of B if A is a model of transformers).
        parting: the first op that differs by more than its tolerance; None if nothing does.
        depths: the errors by depth.
        only_a: the values of A, weights aside, that have no counterpart in B.
        only_b: those of B that have none in A.
        notes: sentences for the user.
    """

    a: str
    b: str
    token_ids: tuple[int, ...]
    dtype: str
    tolerance: float | None
    comparisons: tuple[Comparison, ...]
    parting: Parting | None
    depths: tuple[Depth, ...]
    only_a: tuple[Site, ...]
    only_b: tuple[Site, ...]
    notes: tuple[str, ...] = ()

    @property
    def agree(self) -> bool:
        """Whether no value differs by more than its tolerance."""
        return self.parting is None

    def to_json(self, *, every: bool = False) -> dict[str, Any]:
        """All of it as a JSON object, with every comparison if asked for; a number that is not finite is null."""
        return {
            "a": self.a,
            "b": self.b,
            "token_ids": list(self.token_ids),
            "dtype": self.dtype,
            "tolerance": self.tolerance,
            "agree": self.agree,
            "compared": len(self.comparisons),
            "parting": _plain(self.parting),
            "depths": _plain(self.depths),
            **({"comparisons": _plain(self.comparisons)} if every else {}),
            "only_a": [site.name for site in self.only_a],
            "only_b": [site.name for site in self.only_b],
            "notes": list(self.notes),
        }


def error_text(error: float) -> str:
    """A relative error for a person: `3.1e-04`, `0` or `inf`."""
    return "0" if error == 0 else f"{error:.1e}" if math.isfinite(error) else "inf"


def _plain(thing: Any) -> Any:
    if hasattr(thing, "__dataclass_fields__"):
        return dict(_fields(thing))
    if isinstance(thing, tuple):
        return [_plain(item) for item in thing]
    return json_number(thing)


def _fields(thing: Any) -> Iterator[tuple[str, Any]]:
    for name in thing.__dataclass_fields__:
        yield name, _plain(getattr(thing, name))
    if isinstance(thing, Comparison):
        yield "parts", thing.parts
