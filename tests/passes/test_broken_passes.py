"""A pass that breaks a graph is named, word for word, with the op at which it does so, and the rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import llmc
from llmc import P, ops
from tests.passes.checks import graph_of

GRAPH = graph_of("""
    input x: f32[B,4]
    mlp from model.mlp:
      %.wide: f32[B,4] = scale(%x, factor=0.5)
      %.act: f32[B,4] = gelu(%.wide)
    output y = %mlp.act
    """)
HERE = "tests/passes/test_broken_passes.py"
ACT = "gelu %mlp.act from model.mlp"
CHANGE = f"{ACT}, of type f32[B,4], by %mlp.act.cast of type f16[B,4]"
LEFT = "the pass 'breaks' left an invalid graph"
VISIT = f"the pass 'breaks' fails: the visit of {ACT}"
RULE = f"the pass 'breaks' fails: the rule 'swap' at {ACT}"


def visits(visit: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """The pass `breaks`, which visits every op so."""

    def breaks(graph: Any) -> Any:
        return llmc.sweep(graph, visit)

    return breaks


def at_act(action: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    return visits(lambda op, b: action(op, b) if op.kind is ops.gelu else None)


def by_rule(action: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """The pass `breaks`, which applies the rule `swap` to activations."""

    def breaks(graph: Any) -> Any:
        return llmc.apply_rules(graph, [llmc.rule(P.gelu("x"), name="swap")(action)])

    return breaks


def reversed_ops(graph: Any) -> Any:
    return graph.with_ops(graph.ops[::-1], graph.outputs)


def lies(graph: Any) -> Any:
    act = graph.ops[-1]
    lie = replace(act, results=(llmc.Value("mlp.act", act.result.type.with_shape(7)),))
    return graph.with_ops((*graph.ops[:-1], lie), {"y": lie.result})


# What a pass does wrong, and what is said of it; LINE is the file and a line of it.
BROKEN: dict[str, tuple[Callable[[Any], Any], str, str | None]] = {
    "an op that cannot be": (
        at_act(lambda op, b: b.reshape(op.operands[0], shape=(3,))),
        f"{VISIT} fails: reshape(f32[B,4]): [B,4] and [3] hold different numbers of elements (LINE)",
        None,
    ),
    "no such op": (
        at_act(lambda op, b: b.gleu(op.operands[0])),
        f"{VISIT} fails: there is no op 'gleu'; did you mean 'gelu'? (LINE)",
        "an op of your own must be imported before a graph uses it (on the command line: --plugin FILE.py)",
    ),
    "an attribute that an op lacks": (
        at_act(lambda op, b: b.again(op, slope=2)),
        f"{VISIT} fails: gelu has no attribute 'slope'; it has: tanh (LINE)",
        None,
    ),
    "another type": (
        at_act(lambda op, b: b.cast(op.operands[0], dtype=llmc.DType.f16)),
        f"the pass 'breaks' fails: breaks replaces {CHANGE} (LINE)",
        "a replacement keeps the type; a pass that changes types sweeps with retype=True",
    ),
    "another type, by a rule": (
        by_rule(lambda match, b: b.cast(match["x"], dtype=llmc.DType.f16)),
        f"the pass 'breaks' fails: the rule 'swap' replaces {CHANGE} (LINE)",
        "a replacement keeps the type; a pass that changes types sweeps with retype=True",
    ),
    "an op that cannot be, by a rule": (
        by_rule(lambda match, b: b.matmul(match["x"], match["x"])),
        f"{RULE} fails: matmul(f32[B,4], f32[B,4]): inner sizes differ: 4 and B (LINE)",
        None,
    ),
    "a name that a rule does not bind": (
        by_rule(lambda match, b: match["y"]),
        f"{RULE} fails: the match binds no 'y' (LINE)",
        None,
    ),
    "any exception, in a rule": (
        by_rule(lambda match, b: dict[str, Any]()["missing"]),
        f"{RULE} fails: KeyError: 'missing' (LINE)",
        "this is a mistake in the code named; --debug shows all of the traceback",
    ),
    "any exception, in a visit": (
        at_act(lambda op, b: 1 / 0),
        f"{VISIT} fails: ZeroDivisionError: division by zero (LINE)",
        "this is a mistake in the code named; --debug shows all of the traceback",
    ),
    "too many results": (
        at_act(lambda op, b: (op.operands[0], op.operands[0])),
        f"the pass 'breaks' fails: {ACT} has 1 results but 2 replacements (LINE)",
        None,
    ),
    "what is no value": (
        at_act(lambda op, b: True),
        f"{VISIT} returned True (LINE)",
        "a visit returns None, a value, or one value for each result of the op",
    ),
    "what is no value, from a rule": (
        by_rule(lambda match, b: "x"),
        f"{RULE} returned 'x' (LINE)",
        "a rule returns a value, one value for each result of the root, a Decline or None",
    ),
    "a value of another graph": (
        at_act(lambda op, b: llmc.Value("elsewhere", op.result.type)),
        f"{LEFT}: the output 'y' is %elsewhere, which nothing defines with type f32[B,4]",
        None,
    ),
    "ops out of order": (
        reversed_ops,
        f"the pass 'reversed-ops' left an invalid graph: {ACT} uses %mlp.wide before it is defined",
        None,
    ),
    "a type that is not so": (
        lies,
        f"the pass 'lies' left an invalid graph: {ACT} says that %mlp.act is f32[7]; its rule gives f32[B,4]",
        None,
    ),
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_the_pass_the_op_and_the_rule_are_named(mistake: str) -> None:
    broken, message, hint = BROKEN[mistake]
    with pytest.raises(llmc.LlmcError) as caught:
        llmc.optimize(GRAPH, [broken])
    said = caught.value.message
    place = said[said.index(HERE) : -1] if HERE in said else ""
    assert (said, caught.value.hint) == (message.replace("LINE", place), hint)
    assert ("LINE" in message) == bool(place)


def test_a_model_that_is_no_step_any_more() -> None:
    def breaks(graph: Any) -> Any:
        return replace(graph, outputs=type(graph.outputs)({**graph.outputs, "logits": graph.value("embed.tokens")}))

    with pytest.raises(llmc.GraphError) as caught:
        llmc.optimize(llmc.lift("examples/models/opt-tiny"), [breaks])
    assert caught.value.message.startswith("the pass 'breaks' left a graph that is no model's step any more: ")
