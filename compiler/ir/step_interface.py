"""What a step graph takes and gives, by what it is for, and what every step graph must have.

A step graph takes some of `STEP_INPUTS`, and caches whose next states are outputs of the same names. It gives the
logits. The graph of packed steps (see `compiler.ir.paged`) takes some of `PACKED_INPUTS`, and its caches are pools of
blocks. The graph of one stage of a pipeline takes and gives what passes between stages, too, and perhaps no logits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from compiler.errors import GraphError
from compiler.ir.cache_layout import CACHE, LINEAR, CacheLayout
from compiler.ir.graph import Fact, Graph
from compiler.ir.mesh import received
from compiler.ir.mesh_stages import RECEIVE, SEND
from compiler.ir.op import Value
from compiler.ir.packed_step import PACKED_INPUTS, PackedStep
from compiler.ir.paged_layout import PagedLayout, layout_of
from compiler.ir.step import LOGITS, STEP_INPUTS, TOKEN_IDS, B, R, Step, dim_sizes
from compiler.ir.types import TensorType
from compiler.suggest import did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    RuntimeDType = Callable[[Value], torch.dtype]
    """The element type in which an executor holds a value."""


@dataclass(frozen=True)
class StepInterface:
    """The inputs and outputs of a step graph, or of the graph of one of its ranks.

    Attributes:
        inputs: which of `STEP_INPUTS`, or of `PACKED_INPUTS`, the graph has, in that order.
        caches: the inputs whose next states are outputs.
        received: the inputs that other stages send, in the order of sending.
        results: the roles of the other outputs: `logits`, and `send.S.NAME` in the order of sending.
        layout: how the caches lie; with the paged layout, steps are packed.
    """

    inputs: tuple[Value, ...]
    caches: tuple[Value, ...]
    received: tuple[Value, ...]
    results: tuple[str, ...]
    layout: CacheLayout | PagedLayout = LINEAR

    @classmethod
    def of(cls, graph: Graph) -> StepInterface:
        """The interface of a graph.

        Raises:
            GraphError: if the graph has an input that no step gives.
        """
        states, arrivals = graph.states(), tuple(link.value for link in received(graph))
        layout = layout_of(graph)
        given = step_inputs(layout)
        known = {*given, *states, *(value.name for value in arrivals)}
        unknown = [value.name for value in graph.inputs if value.name not in known]
        if unknown:
            raise GraphError(
                f"a step gives no input {', '.join(unknown)}, which {graph.name} has",
                hint=f"a step gives {', '.join(given)}, caches, and what other stages send",
            )
        by_name = {value.name: value for value in graph.inputs}
        return cls(
            tuple(by_name[name] for name in given if name in by_name),
            tuple(value for value, _ in states.values()),
            arrivals,
            tuple(role for role in graph.outputs if role not in states),
            layout,
        )

    @property
    def block(self) -> int | None:
        """How many tokens a block of the pools holds; None if the caches are linear."""
        return self.layout.block if isinstance(self.layout, PagedLayout) else None

    @property
    def is_whole(self) -> bool:
        """Whether it is that of a whole model: it needs nothing from other stages, and gives the logits."""
        return not self.received and LOGITS in self.results

    @cached_property
    def arguments(self) -> tuple[int, ...]:
        """For each of `inputs`, its place in a `Step` or a `PackedStep`."""
        fields = tuple(step_inputs(self.layout))
        return tuple(fields.index(value.name) for value in self.inputs)

    def named(self, step: Step | PackedStep) -> dict[str, Tensor]:
        """The arguments of a step that the graph takes, by name."""
        return {value.name: step[at] for value, at in zip(self.inputs, self.arguments, strict=True)}

    def ordered(self, graph: Graph) -> Graph:
        """The graph with its inputs in the order of the attributes."""
        return replace(graph, inputs=(*self.inputs, *self.caches, *self.received))

    def empty_caches(
        self,
        batch: int,
        capacity: int,
        *,
        runtime_dtype: RuntimeDType | None = None,
        device: str | torch.device = "cpu",
    ) -> dict[str, Tensor]:
        """Caches of zeros for `batch` rows of `capacity` tokens, by name.

        Args:
            batch: how many rows.
            capacity: how many tokens of each.
            runtime_dtype: the element type to hold a cache in; its own if None.
            device: where to put them.
        """
        import torch

        return self._made(torch.zeros, self.caches, dim_sizes(batch=batch, capacity=capacity), runtime_dtype, device)

    def empty_pools(
        self, blocks: int, *, runtime_dtype: RuntimeDType | None = None, device: str | torch.device = "cpu"
    ) -> dict[str, Tensor]:
        """Pools of zeros of so many blocks, by name; the other arguments are those of `empty_caches`."""
        import torch

        return self._made(torch.zeros, self.caches, dim_sizes(blocks=blocks), runtime_dtype, device)

    def packed_buffers(
        self, step: PackedStep, *, runtime_dtype: RuntimeDType | None = None, device: str | torch.device = "cpu"
    ) -> dict[str, Tensor]:
        """Memory for what other stages send of a packed step, by name; the other arguments are those of `buffers`."""
        import torch

        sizes = dim_sizes(batch=len(step.block_tables), tokens=step.tokens, wanted=step.wanted)
        return self._made(torch.empty, self.received, sizes, runtime_dtype, device)

    def buffers(
        self,
        rows: int,
        length: int,
        wanted: int,
        *,
        runtime_dtype: RuntimeDType | None = None,
        device: str | torch.device = "cpu",
    ) -> dict[str, Tensor]:
        """Memory for what other stages send of a step, by name; the arguments are like those of `empty_caches`.

        Args:
            rows: how many rows the step has.
            length: how many tokens a row has.
            wanted: how many logits a row wants.
            runtime_dtype: the element type to hold a value in; its own if None.
            device: where to put it.
        """
        import torch

        sizes = dim_sizes(batch=rows, length=length, wanted=wanted)
        return self._made(torch.empty, self.received, sizes, runtime_dtype, device)

    @staticmethod
    def _made(
        make: Callable[..., Tensor],
        values: Collection[Value],
        sizes: Mapping[str, int],
        runtime_dtype: RuntimeDType | None,
        device: str | torch.device,
    ) -> dict[str, Tensor]:
        from compiler.ir.torch_types import to_torch

        return {
            value.name: make(
                value.type.sizes(sizes),
                dtype=runtime_dtype(value) if runtime_dtype else to_torch(value.type.dtype),
                device=device,
            )
            for value in values
        }


def step_inputs(layout: CacheLayout | PagedLayout) -> Mapping[str, TensorType]:
    """The inputs, other than caches, that a step gives to a graph whose caches lie so."""
    return PACKED_INPUTS if isinstance(layout, PagedLayout) else STEP_INPUTS


def _logits_shape(layout: CacheLayout | PagedLayout, vocabulary: Fact | None) -> tuple[object, ...]:
    return (R, vocabulary) if isinstance(layout, PagedLayout) else (B, R, vocabulary)


def _hint(layout: CacheLayout | PagedLayout) -> str:
    inputs = ", ".join(f"{name} {type_}" for name, type_ in step_inputs(layout).items())
    logits = ",".join(map(str, _logits_shape(layout, "vocabulary")))
    return (
        f"a step takes {inputs} and caches {layout.text} whose next states are outputs of their names, "
        f"and gives {LOGITS} [{logits}]"
    )


def is_step(graph: Graph) -> bool:
    """Whether a graph is a model's step: it reads tokens, gives logits, and says how large the vocabulary is."""
    return (
        any(value.name == TOKEN_IDS for value in graph.inputs)
        and LOGITS in graph.outputs
        and "vocab_size" in graph.facts
    )


def check_step(graph: Graph, *, before: Graph | None = None) -> None:
    """See that a graph is a step.

    Args:
        graph: the graph.
        before: the step that it was made from, to say what has changed.

    Raises:
        GraphError: saying what is missing, unknown or of another type.
    """
    problem = next(_problems(graph, before), None)
    if problem:
        raise GraphError(problem, hint=_hint(layout_of(graph)))


def _problems(graph: Graph, before: Graph | None) -> Iterator[str]:
    old = before.states() if before else {}
    inputs, states = {value.name: value for value in graph.inputs}, graph.states()
    layout = layout_of(graph)
    given = step_inputs(layout)
    if TOKEN_IDS not in inputs:
        yield f"the input {TOKEN_IDS!r} is missing"
    for name, value in inputs.items():
        wanted = given.get(name)
        if wanted is not None:
            if value.type != wanted:
                yield f"the input {name!r} is {value.type}, not {wanted}"
        elif name not in states and not name.startswith(RECEIVE):
            yield (
                f"the cache {name!r} has no next state: there is no output of its name"
                if name in old or name.startswith(CACHE)
                else f"the input {name!r} is none that a step gives"
            )
    yield from _output_problems(graph, old)
    for name, (state, _) in states.items():
        if not layout.fits(state.type):
            yield f"the cache {name!r} is {state.type}, whose dims are not those of {layout.text}"


def _output_problems(graph: Graph, old: Collection[str]) -> Iterator[str]:
    states = graph.states()
    others = [role for role in graph.outputs if role not in states and role != LOGITS and not role.startswith(SEND)]
    logits = graph.outputs.get(LOGITS)
    if logits is None:
        renamed = f"; {others[0]!r} is there instead" if len(others) == 1 else did_you_mean(LOGITS, others)
        yield f"the output {LOGITS!r} is missing{renamed}"
    for role in others:
        what = "the next state of no input" if role in old else "none that a step gives"
        yield f"the output {role!r} is {what}"
    wanted = _logits_shape(layout_of(graph), graph.facts.get("vocab_size"))
    if logits is not None and not (logits.type.dtype.is_float and logits.type.shape == wanted):
        yield (
            f"the output {LOGITS!r} is {logits.type}, not floating-point numbers [{','.join(map(str, wanted))}] "
            "(the fact vocab_size is the last of these)"
        )
