"""What a trace takes from each of its two sides."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from compiler.ir.graph import Graph
from compiler.ir.op import Op
from compiler.ir.step import Step
from compiler.ir.types import TensorType

Emit = Callable[[int, str, Sequence[Tensor]], None]
"""Called with the number of a step, the name of a value, and the value on each rank of its stage."""


@dataclass(frozen=True)
class Traced:
    """A value that a side can show.

    Attributes:
        name: its name.
        op: the op that computes it.
        type: its type on one rank, in the form that it has in a padded step.
        constant: whether it depends on no input.
    """

    name: str
    op: Op
    type: TensorType
    constant: bool


class Source(Protocol):
    """One side of a trace: something that computes the values of a model's steps.

    Attributes:
        words: what it is, for messages.
        graphs: the graphs that name its values, one for each stage of its pipeline.
        values: the values that it can show, in the order in which they are computed.
        ranks: how many ranks share the values of a stage.
        dtype: the element type that it computes in, such as `float16`.
        quantizes: whether it quantizes activations or caches while it runs.
    """

    words: str
    ranks: int
    dtype: str
    quantizes: bool

    @property
    def graphs(self) -> Sequence[Graph]: ...

    @property
    def values(self) -> Mapping[str, Traced]: ...

    def chunk(self, length: int) -> int:
        """How many tokens of a prompt of this length a step may have at most, for no value to be large."""
        ...

    def run(self, steps: Sequence[Step], wanted: Collection[str], emit: Emit) -> None:
        """Run the steps of a prompt one after the other.

        Args:
            steps: consecutive steps of one row, which begins with them.
            wanted: the names of the values to show.
            emit: called with each of them as it is computed; those that are constant in the first step only.
        """
        ...
