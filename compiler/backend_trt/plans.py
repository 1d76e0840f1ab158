"""Which plans an engine has: TensorRT is fastest where it knows every size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from compiler.errors import TargetError
from compiler.ir.facts import larger_limits
from compiler.ir.frozen import EMPTY
from compiler.ir.graph import DimRange, Fact, Graph
from compiler.ir.specialize import bind_dims
from compiler.ir.step import StepDim, dim_sizes

# Rows of a cache must begin at multiples of 256 bytes: this many slots make sure of it, whatever the width of a head.
_SLOTS = 128
_LEAST_CAPACITY = 256
_LEAST_WIDTH = 64
# A wider chunk is hardly faster for each of its tokens.
_LARGEST_WIDTH = 2048
# How many elements a mask, or an attention bias, may have in a plan whose width nobody asked for: what TensorRT needs
# for a step, when it builds and when it runs, grows with them.
_PRODUCT = 2**27
# The width of prompts' chunks where there shall be few plans: more tokens at once are hardly faster for each.
_ONE_WIDTH = 256
# Up to this width a prefill plan gives the logits of all its tokens; a wider one those of one token a row.
_SCORED = 256
# The dims of a step's tokens.
_TOKENS = (StepDim.BATCH, StepDim.LENGTH)


@dataclass(frozen=True)
class PlanSpec:
    """A plan to build.

    Attributes:
        name: what it is called.
        sizes: the dims that it fixes, which are all that it has if it is one for steps.
    """

    name: str
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int | None:
        """How many rows the tokens of a step make; None if that is not fixed."""
        return prod(self.sizes[dim] for dim in _TOKENS) if self.sizes.keys() >= set(_TOKENS) else None

    def specialize(self, graph: Graph) -> Graph:
        """The graph for the steps of this plan."""
        return bind_dims(graph, {name: size for name, size in self.sizes.items() if name in graph.dims})


def plan_specs(
    dims: Mapping[str, DimRange],
    *,
    batches: Sequence[int] = (),
    widths: Sequence[int] = (),
    capacities: Sequence[int] = (),
    facts: Mapping[str, Fact] = EMPTY,
    few: bool = False,
    product: int = 1,
) -> tuple[PlanSpec, ...]:
    """The plans of a graph with these dims.

    A step graph gets a plan `decode-bB-cC` for each size of the batch and of the caches, with one token a row, and a
    plan `prefill-sS-cC` for each number of tokens of one row; longer prompts are taken in chunk by chunk. Every dim is
    fixed. Another graph gets one plan that fixes nothing.

    Args:
        dims: the ranges of the graph's dims.
        batches: the sizes of the batch; the largest and its eighths, down to 1, if empty.
        widths: the numbers of tokens; if empty, for each capacity the largest and its eighths, down to 64. The largest
            is then 2048, or less if the graph takes no longer prompts, or if its masks would have too many elements.
        capacities: the lengths of the caches; the largest and its quarters, down to 256, if empty.
        facts: what is known about the model, which decides what can be done about a size that is too large.
        few: whether what is empty stands for as few plans as can be, since each holds weights: two sizes of the batch,
            one width of 256 tokens at most, the largest caches.
        product: how many elements the largest value with both `S` and `C` in its shape has for each pair of a token of
            `S` and one of `C`: 1 for a mask, the number of heads for a bias of each head.

    Raises:
        TargetError: if a size is less than 1, or larger than the graph's.
    """
    if not {StepDim.BATCH, StepDim.LENGTH, StepDim.CAPACITY} <= dims.keys():
        return (PlanSpec("all"),)
    largest, longest, prompt = (dims[dim].max for dim in (StepDim.BATCH, StepDim.CAPACITY, StepDim.LENGTH))
    if few:
        batches, capacities = batches or (largest,), capacities or (longest,)
    now = {"max_input": prompt, "max_seq": longest}
    batches = _sizes(
        "batch", largest, [*(batches or _shares(largest, 8, 1)), 1, largest], lambda size: f"--max-batch {size}"
    )
    if widths:
        widths = _sizes("width", prompt, widths, lambda size: larger_limits(facts, **now, prompt=size))
    capacities = _sizes(
        "capacity",
        longest,
        [*(capacities or _shares(longest, 4, _LEAST_CAPACITY)), longest],
        lambda size: larger_limits(facts, **now, sequence=size),
    )
    slots = sorted({-(-capacity // _SLOTS) * _SLOTS for capacity in capacities})
    decode = [_plan(f"decode-b{batch}", batch, 1, length) for length in slots for batch in batches]
    prefill = [
        _plan(f"prefill-s{width}", 1, width, length)
        for length in slots
        for width in _fitting(widths or _usual_widths(prompt, product * length, few=few), length)
    ]
    return (*decode, *prefill)


def _usual_widths(prompt: int, each: int, *, few: bool) -> list[int]:
    """The widths of prompts' chunks, smallest first, where a mask has `each` elements for a token."""
    fitting = max(_LEAST_WIDTH, 1 << max(1, _PRODUCT // each).bit_length() - 1)  # a power of two
    largest = min(prompt, fitting, _ONE_WIDTH if few else _LARGEST_WIDTH)
    return [largest] if few else _shares(largest, 8, _LEAST_WIDTH)[::-1]


def _fitting(widths: Sequence[int], length: int) -> list[int]:
    """Those of the widths that caches of a length hold, or else the smallest; single tokens need no such plan."""
    return [width for width in widths if 1 < width <= length or width == widths[0] > 1]


def _plan(name: str, batch: int, width: int, capacity: int) -> PlanSpec:
    scored = width if width <= _SCORED else 1
    sizes = dim_sizes(batch=batch, length=width, wanted=scored, capacity=capacity)
    return PlanSpec(f"{name}-c{capacity}", sizes)


def _shares(largest: int, step: int, least: int) -> list[int]:
    """`largest`, and what is left of it divided by `step` again and again, while at least `least`."""
    sizes = [largest]
    while sizes[-1] // step >= least:
        sizes.append(sizes[-1] // step)
    return sizes


def _sizes(what: str, largest: int, given: Sequence[int], larger: Callable[[int], str | None]) -> list[int]:
    """The sizes in order, each once; `larger` says how to compile for a size that is too large, if that can be done."""
    sizes = sorted(set(given))
    for size in (sizes[0], sizes[-1]):
        if not 1 <= size <= largest:
            options = larger(size) if size > largest else None
            raise TargetError(
                f"a plan for a {what} of {size} was asked for; the engine's go from 1 to {largest}",
                hint="give other sizes" + (f", or compile with {options}" if options else ""),
            )
    return sizes
