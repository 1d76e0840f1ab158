"""The text form: printing, parsing and files."""

import gc
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import GraphError, ParseError
from compiler.ir.builder import Builder
from compiler.ir.dims import Affine, symbol
from compiler.ir.dtypes import DType
from compiler.ir.files import read_graph, write_graph
from compiler.ir.graph import DimRange, Graph
from compiler.ir.literals import attr_text, name_text, quote, read_attr, read_name, unquote
from compiler.ir.op import Origin, make_op, op_kind
from compiler.ir.parser import parse_graph
from compiler.ir.printer import excerpt, format_op, print_graph
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.types import TensorType
from compiler.ir.verifier import verify
from tests.strategies import dims, graphs

GOLDEN = """\
graph gpt_neox version 1
root "/models/pythia"
fact family = "gpt_neox"
fact vocab_size = 4096
dim B = 1..4..8
dim S = 1..1..512
input x: f16[B,S,64]
input cache.0.k: f16[B,4,32,16]

layers.0.attn from gpt_neox.layers.0.attention:
  %.q.weight: f16[128,64] = const(data=f16[128,64] "h.0.q" in "model.safetensors" at 8192)
  %.q: f16[B,S,128] = linear(%x, %.q.weight)
  %.a: f16[B,S,64], %.b: f16[B,S,64] = split(%.q, axis=-1, sizes=[64,64])
  %.c: f32[B,S,64] = cast(%.b, dtype=f32)  !dtype !"kv=int8"

.:
  %scale: f16[B,S,64] = scale(%layers.0.attn.a, factor=inf)

layers.0.mlp:
  %.gelu: f16[B,S,64] = gelu(%scale, tanh=true)
  %.out: f16[B,4*S,16] = reshape(%.gelu, shape=[B,4*S,16])

output hidden = %layers.0.mlp.out
output cache.0.k = %cache.0.k
"""


def golden_graph() -> Graph:
    b, batch, length = Builder("gpt_neox"), symbol("B"), symbol("S")
    b.dims = {"B": DimRange(1, 4, 8), "S": DimRange(1, 1, 512)}
    b.facts = {"family": "gpt_neox", "vocab_size": 4096}
    x = b.input("x", DType.f16, batch, length, 64)
    b.input("cache.0.k", DType.f16, batch, 4, 32, 16)
    with b.scope("layers.0.attn", "gpt_neox.layers.0.attention"):
        ref = TensorRef(TensorType(DType.f16, (128, 64)), "h.0.q", "model.safetensors", 8192)
        q = b.linear(x, b.const(data=ref, name="q.weight"), name="q")
        first, second = b.split(q, axis=-1, sizes=(64, 64), names=("a", "b"))
        b.origin = Origin(b.origin.module, ("dtype", "kv=int8"))
        b.cast(second, dtype=DType.f32, name="c")
    scaled = b.scale(first, factor=math.inf)
    with b.scope("layers.0.mlp"):
        out = b.reshape(b.gelu(scaled, tanh=True), shape=(batch, 4 * length, 16), name="out")
    b.output("hidden", out)
    b.output("cache.0.k", b.inputs[1])
    return b.build("/models/pythia")


def head(*lines: str) -> str:
    """A text with an input %x and the given lines, which start at line 5."""
    return "\n".join(["graph g", "dim B = 1..2..4", "input x: f16[B,4]", "", *lines]) + "\n"


def test_golden_text():
    graph = golden_graph()
    verify(graph)
    assert print_graph(graph) == GOLDEN
    assert parse_graph(GOLDEN) == graph


@given(graphs(odd=True))
def test_parsing_is_the_inverse_of_printing(graph):
    text = print_graph(graph)
    parsed = parse_graph(text)
    assert parsed == graph
    assert print_graph(parsed) == text  # tells 1 from 1.0, which are equal
    assert [*parsed.facts, *parsed.dims, *parsed.outputs] == [*graph.facts, *graph.dims, *graph.outputs]


@given(graphs(odd=True))
def test_one_line_for_each_op(graph):
    lines = [line for line in print_graph(graph).split("\n") if line.startswith("  %")]
    assert len(lines) == len(graph.ops)


@given(st.text(), st.text())
def test_strings_and_names_round_trip_on_one_line(a, b):
    for text in (a, b, a + '"' + b, a + "\\" + b, a + "\u2028" + b):
        assert unquote(quote(text)) == text
        assert len(quote(text).splitlines()) == 1
        assert read_name(name_text(text)) == text


numbers = st.one_of(st.integers(), st.floats(allow_nan=False), st.just(math.nan), st.booleans())


@given(
    st.recursive(
        st.one_of(numbers, st.text(), st.sampled_from(DType)), lambda items: st.lists(items, max_size=4).map(tuple)
    )
)
def test_attribute_values_round_trip(value):
    declared = int | float | bool | str | DType | tuple[float, ...]
    read = read_attr(attr_text(value), declared)
    assert repr(read) == repr(value)  # 1, 1.0 and True are equal but not the same


@given(st.lists(dims(), max_size=5))
def test_dims_round_trip_in_attributes(shape):
    assert read_attr(attr_text(tuple(shape)), tuple[int | Affine, ...]) == tuple(shape)


def test_declared_type_decides_between_a_dtype_and_a_symbol():
    assert read_attr("f16", DType) is DType.f16
    assert read_attr("f16", int | Affine) == symbol("f16")
    assert read_attr("[inf,4*nan+1]", tuple[int | Affine, ...]) == (symbol("inf"), 4 * symbol("nan") + 1)


def test_equal_spellings_are_not_confused_with_defaults():
    b = Builder("g")
    x = b.input("x", DType.f16, 4)
    b.layer_norm(x, eps=1e-5)
    b.random(key="k", dtype=DType.f16, shape=(1,), mean=0, std=0.02)
    b.random(key="k", dtype=DType.f16, shape=(1,), mean=-0.0, std=0.02)
    lines = [format_op(op) for op in b.build().ops]
    assert lines == [
        "%layer_norm: f16[4] = layer_norm(%x)",
        '%random: f16[1] = random(key="k", dtype=f16, shape=[1], mean=0)',
        '%random_2: f16[1] = random(key="k", dtype=f16, shape=[1], mean=-0.0)',
    ]


def test_a_weight_and_its_user_share_a_section_whichever_comes_first():
    b = Builder("g")
    x = b.input("x", DType.f16, 4)
    with b.scope("h.0"):
        with b.scope("attn"):
            b.relu(x, name="first")
        b.relu(x, name="second")
        with b.scope("mlp"):
            b.relu(x, name="third")
    b.relu(x, name="last")
    lines = [line for line in print_graph(b.build()).splitlines()[4:] if line]
    assert [line.partition(":")[0] for line in lines] == [
        "h.0",
        "  %.attn.first",
        "  %.second",
        "  %.mlp.third",
        ".",
        "  %last",
    ]


def test_inserting_an_op_adds_its_line_only():
    graph = golden_graph()
    q = graph.producers["layers.0.attn.q"]
    extra = make_op(op_kind("tanh"), q.results, {}, ("layers.0.attn.extra",), q.origin)
    at = graph.ops.index(q) + 1
    longer = replace(graph, ops=(*graph.ops[:at], extra, *graph.ops[at:]))
    before, after = print_graph(graph).splitlines(), print_graph(longer).splitlines()
    assert [line for line in after if line not in before] == ["  %.extra: f16[B,S,128] = tanh(%.q)"]
    assert [line for line in after if line in before] == before


def test_comments_blank_lines_and_spacing_mean_nothing():
    loose = """
        # a comment
        graph   g

        dim B = 1..2..4
        input x :f16[ B,4 ]
        a  from m :
        # another
        %.y : f16[B,2],%.z:f16[B,2]=split( %x ,axis = -1 , sizes=[ 2, 2 ] )   !p
        output y=%a.y
    """
    strict = head("a from m:", "%.y: f16[B,2], %.z: f16[B,2] = split(%x, axis=-1, sizes=[2,2])  !p", "output y = %a.y")
    assert print_graph(parse_graph(loose)) == print_graph(parse_graph(strict))


def test_root_of_the_text_can_be_replaced():
    assert parse_graph(GOLDEN, root="elsewhere").root == "elsewhere"
    assert parse_graph("graph g").root == "."


def test_types_given_in_the_text_are_checked_and_shared():
    graph = parse_graph(head("%a: f16[B,4] = relu(%x)", "%b: f16[B,4] = relu(%a)"))
    assert graph.ops[0].result.type is graph.ops[1].result.type


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_left_as_it_was(enabled):
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(ParseError):
            parse_graph("graph g\nnonsense")
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()


WORDS = "graph, root, fact, dim, input, output"
ERRORS = {
    "%y: f16[B,4] = reluu(%x)": "there is no op 'reluu'; did you mean 'relu'?",
    "%y: f16[B,5] = relu(%x)": "%y is written as f16[B,5], but relu gives f16[B,4]",
    "%y: f99[B,4] = relu(%x)": "'f99' is no element type; known are " + ", ".join(d.value for d in DType),
    "%y: f16[B,4*] = relu(%x)": "'4*' is no dimension: write an integer or a sum such as 4*S+1",
    "%y: f16[B,4] = relu(%xx)": "%xx is not defined above; did you mean 'x'?",
    "%x: f16[B,4] = relu(%x)": "%x is defined a second time",
    "%.y: f16[B,4] = relu(%x)": "%.y is relative to a scope, but no header such as layers.0.attn: gives one",
    "%y: f16[B,4] = relu(%x, %x)": "relu takes (x) but was given 2 operands",
    "%y: f16[B,4], %z: f16[B,4] = relu(%x)": "expected 1 results of relu, found 2",
    "%y: f16[B,4] = softmax(%x, axis=2)": "softmax(f16[B,4]): axis 2 is outside a tensor of 2 dimensions",
    "%y: f16[B,4] = relu(%x, slope=0.5)": "relu has no attribute 'slope'; it has: none",
    "%y: f16[B,4] = scale(%x)": "scale needs the attribute 'factor'",
    "%y: f16[B,4] = scale(%x, factor=1, factor=2)": "the attribute 'factor' is given twice",
    "%y: f16[B,4] = scale(%x, factor=fast)": (
        "'fast' is no value: expected a number, true, false, a string in double quotes or a list in brackets"
    ),
    "%y: f16[B,4] = scale(%x, factor=)": "expected a value, found nothing",
    "%y: f16[B,4] = scale(%x, factor=])": "expected a value, found ']'",
    "%y: f16[B,4] = scale(%x, factor=1 2)": "expected ',' or ')' after the attribute 'factor', found '2'",
    "%y: f16[B,4] = scale(%x, factor=1,)": "expected an attribute after the last ','",
    "%y: f16[B,4] = scale(%x, 1)": "expected an attribute such as axis=-1, found '1'",
    "%y: f16[B,4] = scale(%x, factor={})": "expected a value at '{}'",
    "%y: f16[B,4] = scale(%x factor=1)": (
        "expected operands such as %a, or attributes such as axis=-1, after a comma; found 'factor=1'"
    ),
    "%y: f16[B,4] = cast(%x, dtype=f17)": "'f17' is no element type; known are " + ", ".join(d.value for d in DType),
    "%y: f16[B,4] = reshape(%x, shape=[B,4": "expected ')' after the arguments, at %x, shape=[B,4",
    "%y: f16[B,4] = reshape(%x, shape=[B,4)": "expected ',' or ']' in a list, found nothing",
    "%y: f16[B,4] = reshape(%x, shape=[B 4])": "expected ',' or ']' in a list, found '4'",
    "%y: f16[B,4] = reshape(%x, shape=[B,S+])": "'S+' is no dimension: write an integer or a sum such as 4*S+1",
    "%y: f16[B,4] = relu %x": "expected an op such as add(, at relu %x",
    "%y: f16[B,4] relu(%x)": "expected '=' after the results, at relu(%x)",
    "%y = relu(%x)": "expected a result such as %x: f16[B,S,256], at %y = relu(%x)",
    "%y: f16[B,4] = relu(%x) twice": "expected the end of the line, or passes such as !dtype, at twice",
    "a from b": (
        f"expected an op such as %x: f16[B] = add(%a, %b), a header such as layers.0.attn:, or one of the words {WORDS}"
    ),
    "graph h": "a text holds one graph; this is a second one",
    "graph": "expected graph NAME, or graph NAME version N",
    "graph g version one": "expected graph NAME, or graph NAME version N",
    "root here": 'expected root "FOLDER"',
    "dim B = 1..2": "expected dim NAME = MIN..OPT..MAX",
    "dim B = 1..2..4": "the dim B is given twice",
    "input y f16[B]": "expected input NAME: TYPE",
    "input x: f16[B,4]": "the input x is given twice",
    "output y %x": "expected output ROLE = %NAME",
    "output y = %z": "%z is not defined above",
    "fact a =": "expected fact NAME = VALUE",
    "fact a = [1]": "expected a number, true, false or a string as a fact, found [1]",
    "fact a = 1 2": "expected one value, found '2' after it",
    r'fact a = "\q"': r'"\q" is no string: Invalid \escape: line 1 column 2 (char 1)',
}


@pytest.mark.parametrize("line", ERRORS)
def test_errors_name_the_line_and_what_was_expected(line):
    with pytest.raises(ParseError) as caught:
        parse_graph(head(f"  {line}  "))
    assert caught.value.message == f"line 5: {ERRORS[line]}"
    assert caught.value.excerpt == f"  {line}"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['root "a"', 'root "b"'], "the root is given twice"),
        (["fact a = 1", "fact a = 1"], "the fact a is given twice"),
        (["output y = %x", "output y = %x"], "the output y is given twice"),
    ],
)
def test_what_is_there_once_is_not_given_twice(lines, message):
    with pytest.raises(ParseError) as caught:
        parse_graph(head(*lines))
    assert str(caught.value) == f"line 6: {message}\n  {lines[1]}"


def test_a_text_starts_with_the_graphs_name():
    with pytest.raises(ParseError, match=r"^line 2: expected 'graph NAME' first\n  dim B = 1\.\.2\.\.4$"):
        parse_graph("# a comment\ndim B = 1..2..4\n")
    with pytest.raises(ParseError, match=r"^the text is empty; expected 'graph NAME' on its first line$"):
        parse_graph("\n# a comment\n")


def test_an_errors_excerpt_is_short():
    with pytest.raises(ParseError) as caught:
        parse_graph(head(f"%y: f16[1] = literal(dtype=f16, shape=[1], values=[{'1.0,' * 10_000}2.0])"))
    assert len(str(caught.value)) < 400


@given(st.data())
def test_damaged_texts_give_parse_errors_only(data):
    at = data.draw(st.integers(0, len(GOLDEN) - 1))
    length = data.draw(st.integers(0, 5))
    text = GOLDEN[:at] + data.draw(st.text(alphabet='%.,=[]()"\\! \nq0', max_size=3)) + GOLDEN[at + length :]
    with suppress(ParseError):
        graph = parse_graph(text)
        assert parse_graph(print_graph(graph)) == graph


def test_values_that_no_attribute_can_hold_are_refused():
    with pytest.raises(GraphError, match=r"^a dict cannot be an attribute: \{\}$"):
        attr_text({})  # type: ignore[arg-type]


def test_excerpt_marks_the_op_among_its_neighbours():
    graph = golden_graph()
    text = excerpt(graph, graph.producers["layers.0.attn.c"], around=1)
    assert text == dedent("""\
          layers.0.attn from gpt_neox.layers.0.attention:
            %.a: f16[B,S,64], %.b: f16[B,S,64] = split(%.q, axis=-1, sizes=[64,64])
        >   %.c: f32[B,S,64] = cast(%.b, dtype=f32)  !dtype !"kv=int8"
          .:
            %scale: f16[B,S,64] = scale(%layers.0.attn.a, factor=inf)""")


def test_excerpt_of_a_foreign_op_is_that_op_in_short_lines():
    literal = make_op(op_kind("literal"), (), {"dtype": DType.f32, "shape": (999,), "values": (0.5,) * 999}, ("a.b",))
    lines = excerpt(golden_graph(), literal).splitlines()
    assert lines[0] == "  a:"
    assert lines[1].startswith(">   %.b: f32[999] = literal(dtype=f32, shape=[999], values=[0.5,")
    assert lines[1].endswith("…")
    assert len(lines) == 2
    assert len(lines[1]) == 160


def test_broken_graphs_can_be_printed():
    graph = golden_graph()
    broken = replace(graph, ops=graph.ops[1:])
    assert "linear(%x, %.q.weight)" in print_graph(broken)


def test_files_hold_a_graph_and_resolve_a_relative_root(tmp_path: Path):
    graph = replace(golden_graph(), root="weights")
    path = tmp_path / "step.ir"
    write_graph(graph, path)
    assert path.read_text(encoding="utf-8") == print_graph(graph)
    assert read_graph(path) == replace(graph, root=str(tmp_path / "weights"))
    write_graph(golden_graph(), path)
    assert read_graph(path) == golden_graph()  # an absolute root stays
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "step.ir"
    write_graph(golden_graph(), path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(GraphError, match=r"step\.ir: No space left on device$"):
        write_graph(replace(golden_graph(), name="other"), path)
    assert list(tmp_path.iterdir()) == [path]
    assert read_graph(path) == golden_graph()


def test_file_errors_name_the_file(tmp_path: Path):
    path = tmp_path / "step.ir"
    with pytest.raises(GraphError) as missing:
        read_graph(path)
    assert missing.value.message == f"cannot read {path}: No such file or directory"
    path.write_text("graph g\nnonsense\n")
    with pytest.raises(ParseError) as wrong:
        read_graph(path)
    assert wrong.value.message.startswith(f"{path}, line 2: expected an op")
    path.write_bytes(b"graph g\xff")
    with pytest.raises(ParseError) as binary:
        read_graph(path)
    assert binary.value.message == f"{path} is not UTF-8 text (invalid start byte at byte 7)"
