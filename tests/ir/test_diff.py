"""Structural diffs."""

import math
from dataclasses import replace
from textwrap import dedent

from hypothesis import given
from hypothesis import strategies as st

from compiler.ir.diff import diff_graphs, format_diff
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Origin
from compiler.ir.parser import parse_graph
from compiler.ir.printer import print_graph
from tests.strategies import graphs

BEFORE = """\
graph g
fact family = "mpt"
fact size = 1
dim B = 1..2..4
input x: f16[B,4]

h.0.attn from h.0.attention:
  %.weight: f16[8,4] = const(data=f16[8,4] "w" in "f" at 0)
  %.qkv: f16[B,8] = linear(%x, %.weight)
  %.k: f16[B,4], %.v: f16[B,4] = split(%.qkv, axis=-1, sizes=[4,4])
  %.sum: f16[B,4] = add(%.k, %.v)

h.0.mlp from h.0.mlp:
  %.act: f16[B,4] = gelu(%h.0.attn.sum)
  %.out: f16[B,4] = tanh(%.act)

output y = %h.0.mlp.out
"""


def edited(*edits: tuple[str, str]) -> tuple[Graph, Graph]:
    text = BEFORE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return parse_graph(BEFORE), parse_graph(text)


def shown(*edits: tuple[str, str], origins: bool = False) -> str:
    return format_diff(diff_graphs(*edited(*edits)), origins=origins)


def names(ops: tuple[Op, ...]) -> list[str]:
    return [op.name for op in ops]


def test_equal_graphs_have_an_empty_diff():
    diff = diff_graphs(*edited())
    assert diff.empty
    assert format_diff(diff) == ""


def test_an_inserted_op_shows_itself_and_its_user_only():
    text = shown(
        (
            "h.0.mlp from",
            "h.0.attn.wide from h.0.attention:\n  %.cast: f16[B,4] = cast(%h.0.attn.sum, dtype=f16)\n\nh.0.mlp from",
        ),
        ("gelu(%h.0.attn.sum)", "gelu(%h.0.attn.wide.cast)"),
    )
    assert text == dedent("""\
          h.0.attn.wide from h.0.attention:
        +   %.cast: f16[B,4] = cast(%h.0.attn.sum, dtype=f16)

          h.0.mlp from h.0.mlp:
        -   %.act: f16[B,4] = gelu(%h.0.attn.sum)
        +   %.act: f16[B,4] = gelu(%h.0.attn.wide.cast)
        """)


def test_a_removed_op_stands_where_it_was():
    text = shown(("  %.act: f16[B,4] = gelu(%h.0.attn.sum)\n", ""), ("tanh(%.act)", "tanh(%h.0.attn.sum)"))
    assert text == dedent("""\
          h.0.mlp from h.0.mlp:
        -   %.act: f16[B,4] = gelu(%h.0.attn.sum)
        -   %.out: f16[B,4] = tanh(%.act)
        +   %.out: f16[B,4] = tanh(%h.0.attn.sum)
        """)


def test_a_removed_first_op_comes_first():
    before, _ = edited()
    text = format_diff(diff_graphs(before, replace(before, ops=before.ops[1:])))
    assert text.startswith(
        '  h.0.attn from h.0.attention:\n-   %.weight: f16[8,4] = const(data=f16[8,4] "w" in "f" at 0)\n'
    )


def test_what_changed_in_an_op_is_named():
    diff = diff_graphs(*edited(("gelu(%h.0.attn.sum)", "gelu(%h.0.attn.sum, tanh=true)"), ("tanh(%.act)", "relu(%x)")))
    assert [(c.after.name, c.what) for c in diff.changed] == [
        ("h.0.mlp.act", ("attributes",)),
        ("h.0.mlp.out", ("kind", "operands")),
    ]
    assert not (diff.added or diff.removed or diff.renamed or diff.moved or diff.head or diff.origins)


def test_a_new_type_changes_an_op_but_not_its_users_operands():
    before = parse_graph("graph g\ninput x: f16[4]\n%a: f16[4] = relu(%x)\n%b: f16[4] = relu(%a)")
    after = parse_graph("graph g\ninput x: f32[4]\n%a: f32[4] = relu(%x)\n%b: f32[4] = relu(%a)")
    diff = diff_graphs(before, after)
    assert [c.what for c in diff.changed] == [("types",), ("types",)]
    assert diff.head == (("input x: f16[4]", "input x: f32[4]"),)


def test_ones_of_different_types_and_signed_zeros_differ_but_not_a_number_does_not():
    def scaled(factor: str) -> Graph:
        return parse_graph(f"graph g\ninput x: f16[4]\n%a: f16[4] = scale(%x, factor={factor})")

    assert not diff_graphs(scaled("1"), scaled("1.0")).empty
    assert not diff_graphs(scaled("0.0"), scaled("-0.0")).empty
    graph = scaled("nan")
    other = replace(graph.ops[0], attrs=type(graph.ops[0].attrs)({"factor": float("nan") * 2}))
    assert math.isnan(other.attrs["factor"])
    assert diff_graphs(graph, replace(graph, ops=(other,))).empty


def test_head_lines():
    text = shown(
        ('"mpt"', '"opt"'), ("fact size = 1\n", ""), ("1..2..4", "1..2..8"),
        ("input x: f16[B,4]", "input x: f16[B,4]\ninput z: i32[B]"), ("output y =", "output z = %z\noutput y2 ="),
    )  # fmt: skip
    assert text == dedent("""\
        - fact family = "mpt"
        + fact family = "opt"
        - fact size = 1
        - dim B = 1..2..4
        + dim B = 1..2..8
        - output y = %h.0.mlp.out
        + input z: i32[B]
        + output z = %z
        + output y2 = %h.0.mlp.out
        """)


def test_name_root_and_order_of_inputs():
    graph = replace(edited()[0], root="a")
    other = parse_graph("graph h\ninput z: f16[4]\ninput x: f16[4]")
    assert diff_graphs(graph, replace(graph, root="b", name="h")).head == (
        ("graph g", "graph h"),
        ('root "a"', 'root "b"'),
    )
    swapped = diff_graphs(other, replace(other, inputs=other.inputs[::-1]))
    assert swapped.head == (("inputs in the order z, x", "inputs in the order x, z"),)


def test_a_renamed_scope_is_renames_and_nothing_else():
    before, _ = edited()
    text = BEFORE.replace("h.0.attn", "blocks.0.attention")
    after = parse_graph(text.replace("h.0.mlp from", "blocks.0.ffn from").replace("%h.0.mlp", "%blocks.0.ffn"))
    diff = diff_graphs(before, after)
    assert len(diff.renamed) == len(before.ops)
    assert not (diff.added or diff.removed or diff.changed or diff.moved or diff.head)
    assert "=   %.act: f16[B,4] = gelu(%blocks.0.attention.sum)  # was %h.0.mlp.act\n" in format_diff(diff)


def test_ambiguous_renames_are_not_guessed():
    before = parse_graph("graph g\ninput x: f16[4]\n%a.p: f16[4] = relu(%x)\n%a.q: f16[4] = relu(%x)")
    same_local = parse_graph("graph g\ninput x: f16[4]\n%b.p: f16[4] = relu(%x)\n%b.q: f16[4] = relu(%x)")
    neither = parse_graph("graph g\ninput x: f16[4]\n%b.r: f16[4] = relu(%x)\n%b.s: f16[4] = relu(%x)")
    assert [(c.before.name, c.after.name) for c in diff_graphs(before, same_local).renamed] == [
        ("a.p", "b.p"),
        ("a.q", "b.q"),
    ]
    diff = diff_graphs(before, neither)
    assert (names(diff.removed), names(diff.added), diff.renamed) == (["a.p", "a.q"], ["b.r", "b.s"], ())


def test_a_renamed_op_with_several_results_renames_its_users_operands():
    diff = diff_graphs(*edited(("%.k", "%.key"), ("%.v", "%.value")))
    assert [(c.before.name, c.after.name) for c in diff.renamed] == [("h.0.attn.k", "h.0.attn.key")]
    assert not (diff.changed or diff.added or diff.removed)


def test_moved_ops_are_the_fewest_that_explain_the_order():
    line = '  %.weight: f16[8,4] = const(data=f16[8,4] "w" in "f" at 0)\n'
    before = parse_graph(BEFORE.replace(line, line + "  %.i: i32[B] = iota(size=B)\n"))
    ops = list(before.ops)
    after = replace(before, ops=(*ops[:1], *ops[2:], ops[1]))
    diff = diff_graphs(before, after)
    assert names(diff.moved) == ["h.0.attn.i"]
    assert format_diff(diff) == "  h.0.attn from h.0.attention:\n~   %.i: i32[B] = iota(size=B)  # moved\n"


def test_origins_are_shown_on_request():
    edit = ("tanh(%.act)", "tanh(%.act)  !dtype")
    diff = diff_graphs(*edited(edit))
    assert diff.empty
    assert [c.what for c in diff.origins] == [("origin",)]
    assert shown(edit) == ""
    assert shown(edit, origins=True) == dedent("""\
          h.0.mlp from h.0.mlp:
        o   %.out: f16[B,4] = tanh(%.act)  !dtype  # from h.0.mlp (changed by dtype); was from h.0.mlp
        """)


@given(graphs(odd=True))
def test_a_graph_does_not_differ_from_its_copy(graph):
    diff = diff_graphs(graph, parse_graph(print_graph(graph)))
    assert diff.empty
    assert diff.origins == ()


@given(graphs(max_ops=5), graphs(max_ops=5))
def test_an_empty_diff_means_equality_but_for_origins(a, b):
    def plain(graph: Graph) -> Graph:
        return replace(graph, ops=tuple(replace(op, origin=Origin()) for op in graph.ops))

    assert diff_graphs(a, b).empty == (print_graph(plain(a)) == print_graph(plain(b)))
    assert bool(format_diff(diff_graphs(a, b))) != diff_graphs(a, b).empty


@given(graphs(max_ops=6), st.data())
def test_dropping_an_op_removes_that_op_only(graph, data):
    if not graph.ops:
        return
    dropped = data.draw(st.sampled_from(graph.ops))
    diff = diff_graphs(graph, replace(graph, ops=tuple(op for op in graph.ops if op is not dropped)))
    assert names(diff.removed) == [dropped.name]
    assert not (diff.added or diff.changed or diff.renamed or diff.moved)
