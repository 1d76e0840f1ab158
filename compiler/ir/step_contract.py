"""What every step graph has, and what runs one relies on: its inputs, its caches and its logits.

A step takes some of `token_ids i32[B,S]`, `past_len i32[B]`, `new_len i32[B]` and `logit_pos i32[B,R]`, and caches
`[B, heads, C, width]` whose next states are outputs of the same names. It gives `logits [B,R,vocabulary]`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from compiler.errors import GraphError
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.mesh_stages import RECEIVE, SEND
from compiler.ir.types import TensorType
from compiler.suggest import did_you_mean

B, S, C, R = map(symbol, "BSCR")

TOKENS, LOGITS = "token_ids", "logits"
CACHE = "cache."
"""What the names of caches begin with that frontends make."""

STEP_INPUTS = {
    TOKENS: TensorType(DType.i32, (B, S)),
    "past_len": TensorType(DType.i32, (B,)),
    "new_len": TensorType(DType.i32, (B,)),
    "logit_pos": TensorType(DType.i32, (B, R)),
}
"""The inputs of a step that are no caches. A graph may do without any of them but the tokens."""

_HINT = (
    f"a step takes {', '.join(f'{name} {type_}' for name, type_ in STEP_INPUTS.items())} and caches [B,heads,C,width] "
    "whose next states are outputs of their names, and gives logits [B,R,vocabulary]"
)


def is_step(graph: Graph) -> bool:
    """Whether a graph is a model's step: it reads tokens, gives logits, and says how large the vocabulary is."""
    return (
        any(value.name == TOKENS for value in graph.inputs) and LOGITS in graph.outputs and "vocab_size" in graph.facts
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
        raise GraphError(problem, hint=_HINT)


def _problems(graph: Graph, before: Graph | None) -> Iterator[str]:
    old = before.states() if before else {}
    inputs, states = {value.name: value for value in graph.inputs}, graph.states()
    if TOKENS not in inputs:
        yield f"the input {TOKENS!r} is missing"
    for name, value in inputs.items():
        wanted = STEP_INPUTS.get(name)
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
        shape = state.type.shape
        if len(shape) != 4 or (shape[0], shape[2]) != (B, C):
            yield f"the cache {name!r} is {state.type}, whose dims are not those of [B,heads,C,width]"


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
    vocabulary = graph.facts.get("vocab_size")
    if logits is not None and not (logits.type.dtype.is_float and logits.type.shape == (B, R, vocabulary)):
        yield (
            f"the output {LOGITS!r} is {logits.type}, not floating-point numbers [B,R,{vocabulary}] "
            "(the fact vocab_size is the last of these)"
        )
