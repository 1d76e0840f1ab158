"""What the pass manager says of every mistake, word for word: of the text of a pipeline, and of what passes do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import llmc
from compiler.errors import GraphError, LlmcError, PassError
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.op import Value
from compiler.ir.patterns import P
from compiler.ir.rewrite import sweep
from compiler.ir.rules import Rule, apply_rules
from compiler.passes import run_pipeline
from compiler.passes.registry import register
from tests.passes.checks import graph_of

GRAPH = graph_of("""
    input x: i32[B,4]
    .:
      %wide: f32[B,4] = cast(%x, dtype=f32)
      %y: f32[B,4] = scale(%wide, factor=1.0)
    output y = %y
    """)
STEP = Path(__file__).parents[1] / "ir" / "texts" / "mesh-0.ir"

LISTED = "hint: `llmc passes` lists them; --plugin FILE.py adds those of a file"
COMMAS = "hint: passes are separated by single commas"
TYPES = "float32, float16, bfloat16, f32, f16, bf16"
TEXTS = {
    "clenup": f"""\
pass 1 of the pipeline: there is no pass 'clenup'; did you mean 'cleanup'?
  clenup
  ^^^^^^
{LISTED}""",
    "cleanup,,fold": f"""\
pass 2 of the pipeline: the name of a pass is missing
  cleanup,,fold
          ^
{COMMAS}""",
    "fold,=2": f"""\
pass 2 of the pipeline: the name of a pass is missing
  fold,=2
       ^^
{COMMAS}""",
    "dtype": """\
pass 1 of the pipeline: the pass 'dtype' needs a value: dtype=float32|float16|bfloat16|f32|f16|bf16
  dtype
  ^^^^^
hint: the type; the short spellings mean the same""",
    "fold,dtype=f99": f"""\
pass 2 of the pipeline: the option 'to' of 'dtype' is one of {TYPES}, not 'f99'
  fold,dtype=f99
       ^^^^^^^^^""",
    "dtype=f16:to=f32": """\
pass 1 of the pipeline: the option 'to' of 'dtype' is given twice
  dtype=f16:to=f32
  ^^^^^^^^^^^^^^^^""",
    "dtype=f16:depth=2": """\
pass 1 of the pipeline: the pass 'dtype' has no option 'depth'
  dtype=f16:depth=2
  ^^^^^^^^^^^^^^^^^
hint: the options of 'dtype', with their defaults: to=float32|float16|bfloat16|f32|f16|bf16 (required)""",
    "tp=two": """\
pass 1 of the pipeline: the option 'ranks' of 'tp' is a whole number, not 'two'
  tp=two
  ^^^^^^""",
    "cleanup=x": """\
pass 1 of the pipeline: the pass 'cleanup' takes no value
  cleanup=x
  ^^^^^^^^^""",
    "cache=paged:block": """\
pass 1 of the pipeline: the option 'block' of 'cache' needs a value: block=int
  cache=paged:block
  ^^^^^^^^^^^^^^^^^""",
    "cache=paged:block=0": """\
pass 1 of the pipeline: block=0 holds no token
  cache=paged:block=0
  ^^^^^^^^^^^^^^^^^^^
hint: use one such as block=64""",
    "quant=int4:skip=a+": """\
pass 1 of the pipeline: the option 'skip' of 'quant' is a list of items with a + between two of them, not 'a+'
  quant=int4:skip=a+
  ^^^^^^^^^^^^^^^^^^""",
    "tp=2": """\
tp finds nothing to split: no linear sums over what other linears compute, part by part
hint: leave tp out of --passes; --explain shows why linears stay whole""",
    "pp=0": """\
pp=0 is no number of stages
hint: pp=1 leaves the model in one piece""",
    "embed=vocab": """\
embed=vocab splits over the ranks of tp, but the graph is for one rank
hint: write tp=N before it: --passes tp=2,embed=vocab""",
    "cache=paged": """\
the pass 'cache' fails: the graph has no dim C, S, which every step has
hint: page caches before sizes are fixed""",
}


@pytest.mark.parametrize("pipeline", TEXTS)
def test_a_mistake_in_a_pipeline(pipeline: str) -> None:
    with pytest.raises(LlmcError) as caught:
        run_pipeline(GRAPH, pipeline)
    assert str(caught.value) == TEXTS[pipeline]


def gives_none(graph: Graph) -> Any:
    sweep(graph, lambda op, b: None)


def gives_ops(graph: Graph) -> Any:
    return graph.ops


def looks_up(graph: Graph) -> Any:
    return graph.facts["missing"]


def retypes(graph: Graph) -> Graph:
    return sweep(graph, lambda op, b: op.operands[0] if op.kind.name == "cast" else None, pass_name="retypes")


def lies(graph: Graph) -> Graph:
    last = graph.ops[-1]
    lie = replace(last, results=(Value("y", last.result.type.with_shape(7)),))
    return graph.with_ops((*graph.ops[:-1], lie), {"y": lie.result})


def breaks_a_rule(graph: Graph) -> Graph:
    return sweep(graph, lambda op, b: b.softmax(op.operands[0]) if op.kind.name == "cast" else None)


def doubles(graph: Graph) -> Graph:
    rule = Rule("twice", P.scale("x"), lambda match, b: (match["x"], match["x"]))
    return apply_rules(graph, [rule], pass_name="doubles")


def matches_nothing(graph: Graph) -> Graph:
    rule = Rule("wrong", P.scale("x"), lambda match, b: match["y"])
    return apply_rules(graph, [rule], pass_name="matches-nothing")


def says_yes(graph: Graph) -> Graph:
    rule: Any = Rule("yes", P.scale("x"), lambda match, b: True)  # type: ignore[arg-type, return-value]
    return apply_rules(graph, [rule], pass_name="says-yes")


def starts_anywhere(graph: Graph) -> Graph:
    return apply_rules(graph, [Rule("any", P.any("x"), lambda match, b: match["x"])], pass_name="starts-anywhere")


def asks_for_more(graph: Graph) -> Graph:
    return apply_rules(graph, [Rule("r", P.relu("x", slope=1), lambda match, b: None)], pass_name="asks-for-more")


def forgets_logits(graph: Graph) -> Graph:
    return graph.with_ops(graph.ops, {role: value for role, value in graph.outputs.items() if role != "logits"})


def line(function: Callable[..., object], more: int = 0) -> str:
    return f"(tests/passes/test_messages.py, line {function.__code__.co_firstlineno + more})"


ENDS = "hint: a pass ends in: return graph"
LIE = "scale %y from the graph says that %y is f32[7]; its rule gives f32[B,4]"
MISTAKE = "hint: this is a mistake in the code named; --debug shows all of the traceback"
KEEPS = "hint: a replacement keeps the type; a pass that changes types sweeps with retype=True"
PASSES: list[tuple[Callable[[Graph], Graph], str]] = [
    (gives_none, f"the pass 'gives-none' fails: it returned None, not a graph {line(gives_none)}\n{ENDS}"),
    (gives_ops, f"the pass 'gives-ops' fails: it returned a tuple, not a graph {line(gives_ops)}\n{ENDS}"),
    (looks_up, f"the pass 'looks-up' fails: KeyError: 'missing' {line(looks_up, 1)}\n{MISTAKE}"),
    (
        retypes,
        (
            "the pass 'retypes' fails: retypes replaces cast %wide from the graph, of type f32[B,4], by %x of type "
            f"i32[B,4] {line(retypes, 1)}\n{KEEPS}"
        ),
    ),
    (lies, f"the pass 'lies' left an invalid graph: {LIE}"),
    (
        breaks_a_rule,
        (
            "the pass 'breaks-a-rule' fails: the visit of cast %wide from the graph fails: softmax(i32[B,4]): needs a "
            "floating-point tensor, not i32 "
            f"{line(breaks_a_rule, 1)}"
        ),
    ),
    (
        doubles,
        f"the pass 'doubles' fails: scale %y from the graph has 1 results but 2 replacements {line(doubles, 2)}",
    ),
    (
        matches_nothing,
        (
            "the pass 'matches-nothing' fails: the rule 'wrong' at scale %y from the graph fails: the match "
            f"binds no 'y' {line(matches_nothing, 1)}"
        ),
    ),
    (
        says_yes,
        (
            "the pass 'says-yes' fails: the rule 'yes' at scale %y from the graph returned True "
            f"{line(says_yes, 1)}\n"
            "hint: a rule returns a value, one value for each result of the root, a Decline or None"
        ),
    ),
    (starts_anywhere, "the rule 'any' starts from any value; the root of a rule's pattern must be an op"),
    (
        asks_for_more,
        (
            "the pass 'asks-for-more' fails: a pattern asks for the attribute 'slope', which relu does not have "
            f"{line(asks_for_more, 1)}"
        ),
    ),
]


@pytest.mark.parametrize(("step", "message"), PASSES, ids=lambda each: getattr(each, "__name__", ""))
def test_a_mistake_of_a_pass(step: Callable[[Graph], Graph], message: str) -> None:
    with pytest.raises(LlmcError) as caught:
        run_pipeline(GRAPH, [step])
    assert str(caught.value) == message


def test_a_pass_that_leaves_no_step() -> None:
    with pytest.raises(GraphError) as caught:
        run_pipeline(read_graph(STEP), [forgets_logits])
    assert str(caught.value) == (
        "the pass 'forgets-logits' left a graph that is no model's step any more: the output 'logits' is missing\n"
        "hint: a step takes token_ids i32[B,S], past_len i32[B], new_len i32[B], logit_pos i32[B,R] and caches "
        "[B,heads,C,width] whose next states are outputs of their names, and gives logits [B,R,vocabulary]"
    )


def test_a_graph_that_was_invalid_before() -> None:
    with pytest.raises(GraphError) as caught:
        run_pipeline(lies(GRAPH), "fold")
    assert str(caught.value) == f"the graph is invalid before any pass: {LIE}"


MISUSED: dict[str, Callable[[], object]] = {
    "the pass 'x' must be a function of a graph or a frozen dataclass": lambda: register("x")(3),  # type: ignore[type-var]
    "passes holds the class Rule, not a pass\nhint: make one of it: Rule(...)": lambda: llmc.optimize(GRAPH, [Rule]),  # type: ignore[list-item]
    "passes holds 3, which is no pass\nhint: give functions of a graph, or texts such as 'tp=2'": (
        lambda: llmc.optimize(GRAPH, [3])  # type: ignore[list-item]
    ),
    f"passes is {lies!r}, not a list\nhint: write a list, even of one pass: passes=[...]": (
        lambda: llmc.optimize(GRAPH, lies)  # type: ignore[arg-type]
    ),
}


@pytest.mark.parametrize("message", MISUSED, ids=lambda message: message.split(",")[0][:30])
def test_a_mistake_in_a_call(message: str) -> None:
    with pytest.raises(PassError) as caught:
        MISUSED[message]()
    assert str(caught.value) == message
