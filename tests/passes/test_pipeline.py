"""Running pipelines: verification, dumps, timing, and the blame for what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from compiler.errors import CheckpointError, GraphError, PassError, PluginError
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.patterns import P
from compiler.ir.rewrite import RewriteBuilder, sweep
from compiler.ir.rules import Decline, Rule, apply_rules
from compiler.ir.trace import Trace
from compiler.passes import ChangeDType, cleanup, fold, run_pipeline
from tests.passes.checks import body_of, graph_of

GRAPH = graph_of("""
    input x: i32[B,4]
    .:
      %wide: f32[B,4] = cast(%x, dtype=f32)
      %same: f32[B,4] = scale(%wide, factor=1.0)
      %w: f32[4] = random(key="w", dtype=f32, shape=[4])
      %y: f32[B,4] = mul(%same, %w)
    output y = %y
    """)


def bad_type(graph: Graph) -> Graph:
    """Lies about a type."""
    last = graph.ops[-1]
    lie = replace(last, results=(Value("y", last.result.type.with_shape(7)),))
    return graph.with_ops((*graph.ops[:-1], lie), {"y": lie.result})


def test_passes_in_order_timed() -> None:
    seen = []
    result = run_pipeline(GRAPH, "dtype=f16,cleanup", on_pass=lambda *step: seen.append(step))
    assert result.canonical == "dtype=float16,cleanup"
    assert seen == [("dtype=float16", 0, 2), ("cleanup", 1, 2)]
    assert [(run.name, run.spelling, run.ops_before, run.ops_after) for run in result.timings] == [
        ("dtype", "dtype=float16", 4, 5),
        ("cleanup", "cleanup", 5, 4),
    ]
    assert all(run.seconds > 0 for run in result.timings)
    assert run_pipeline(GRAPH, [ChangeDType("f16"), cleanup]).graph == result.graph


def test_no_passes() -> None:
    result = run_pipeline(GRAPH, "")
    assert (result.graph, result.timings, result.canonical) == (GRAPH, (), "")


def test_dumps_are_numbered_and_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "dumps"
    result = run_pipeline(GRAPH, "dtype=f16,merge-linears,cleanup", dump_dir=folder)
    names = ["00-lift.ir", "01-dtype.ir", "02-merge-linears.ir", "03-cleanup.ir"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert body_of(replace(read_graph(folder / names[0]), root=".")) == body_of(GRAPH)
    last = read_graph(folder / names[-1])
    assert last.ops == result.graph.ops
    assert Path(last.root).samefile(".")  # weights are found from wherever the dump is


def test_a_dump_shows_the_graph_that_is_invalid(tmp_path: Path) -> None:
    with pytest.raises(GraphError):
        run_pipeline(GRAPH, [bad_type], dump_dir=tmp_path)
    assert "%y: f32[7]" in (tmp_path / "01-bad-type.ir").read_text()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PassError) as caught:
        run_pipeline(GRAPH, "fold", dump_dir=tmp_path / "file" / "dumps")
    assert str(caught.value) == f"cannot make the folder {tmp_path}/file/dumps for dumps: Not a directory"


def test_the_pass_that_leaves_an_invalid_graph_is_named() -> None:
    with pytest.raises(GraphError) as caught:
        run_pipeline(GRAPH, [fold, bad_type, fold])
    assert caught.value.message.startswith("the pass 'bad-type' left an invalid graph: ")
    assert "says that %y is f32[7]; its rule gives f32[B,4]" in caught.value.message
    assert run_pipeline(GRAPH, [bad_type], verify=False).graph.ops[-1].result.type.shape == (7,)


def test_no_pass_is_blamed_for_a_graph_that_was_invalid() -> None:
    with pytest.raises(GraphError) as caught:
        run_pipeline(bad_type(GRAPH), "fold")
    assert caught.value.message.startswith("the graph is invalid before any pass: ")


def test_mistakes_in_passes_name_the_pass() -> None:
    def forgets(graph: Graph) -> Graph:
        sweep(graph, lambda op, b: None)
        return None  # type: ignore[return-value]

    def wrong(graph: Graph) -> Graph:
        return graph.ops  # type: ignore[return-value]

    def fails(graph: Graph) -> Graph:
        return graph.facts["missing"]  # type: ignore[return-value]

    def retypes(graph: Graph) -> Graph:
        def visit(op: Op, b: RewriteBuilder) -> Value | None:
            return op.operands[0] if op.kind.name == "cast" else None

        return sweep(graph, visit, pass_name="retypes")

    messages = []
    for step in (forgets, wrong, fails, retypes):
        with pytest.raises((PassError, PluginError, GraphError)) as caught:
            run_pipeline(GRAPH, [step])
        messages.append(caught.value.message)
    file = "tests/passes/test_pipeline.py"
    lines = [step.__code__.co_firstlineno for step in (forgets, wrong, fails, retypes)]
    place, wide = f"({file}, line {lines[3] + 4})", "cast %wide from the graph"
    assert messages == [
        f"the pass 'forgets' fails: it returned None, not a graph ({file}, line {lines[0]})",
        f"the pass 'wrong' fails: it returned a tuple, not a graph ({file}, line {lines[1]})",
        f"the pass 'fails' fails: KeyError: 'missing' ({file}, line {lines[2] + 1})",
        f"the pass 'retypes' fails: retypes replaces {wide}, of type f32[B,4], by %x of type i32[B,4] {place}",
    ]


def test_errors_that_are_meant_pass_through() -> None:
    def reads(graph: Graph) -> Graph:
        raise CheckpointError("the file is gone")

    with pytest.raises(CheckpointError, match=r"^the file is gone$"):
        run_pipeline(GRAPH, [reads])


def test_requirements_come_first() -> None:
    @dataclass(frozen=True)
    class Shard:
        tp: int

        def requires(self, graph: Graph) -> None:
            raise PassError(f"tp={self.tp} does not divide 6 heads", hint="use tp=2, 3 or 6")

        def __call__(self, graph: Graph) -> Graph:
            raise AssertionError

    with pytest.raises(PassError) as caught:
        run_pipeline(GRAPH, [Shard(4)])
    assert str(caught.value) == "tp=4 does not divide 6 heads\nhint: use tp=2, 3 or 6"


def test_rules_report_to_the_pipelines_trace() -> None:
    def hesitate(graph: Graph) -> Graph:
        rule = Rule("slow_down", P.mul("a", "b"), lambda m, b: Decline("not today"))
        return apply_rules(graph, [rule], pass_name="hesitate")

    trace = Trace()
    run_pipeline(GRAPH, [hesitate, fold], trace=trace)
    text = trace.text()
    assert text.startswith(
        "hesitate\n  slow_down: applied to 0 of 1\n    declined %y from the graph: not today\nfold\n"
    )
    assert "  scale_by_one: applied to 1 of 1\n" in text
