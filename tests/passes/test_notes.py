"""What passes tell the user."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmc as library
from compiler.ir.graph import Graph
from compiler.passes import note, register_pass, run_pipeline
from tests.cli.llmc_command import llmc
from tests.passes.checks import graph_of
from tests.paths import MODELS
from tests.registrations import forgotten

GRAPH = graph_of("""
    input x: f32[B,4]
    .:
      %a: f32[B,4] = relu(%x)
    output y = %a
    """)


@pytest.fixture(autouse=True)
def talks() -> Iterator[None]:
    with forgotten():

        @register_pass("talks")
        def talks(graph: Graph) -> Graph:
            """Says something, twice."""
            for _ in range(2):
                note(f"there are {len(graph.ops)} ops")
            return graph

        yield


def test_notes_come_behind_the_pass_that_made_them_each_once() -> None:
    assert run_pipeline(GRAPH, "talks,fold,talks").notes == ("talks: there are 1 ops",) * 2
    assert library.optimize(GRAPH, "talks").notes == ("talks: there are 1 ops",)
    assert run_pipeline(GRAPH, "fold").notes == ()


def test_a_pass_of_somebody_else_that_changes_nothing_and_says_nothing_is_noted() -> None:
    def idle(graph: Graph) -> Graph:
        return graph

    assert run_pipeline(GRAPH, [idle]).notes == ("idle: it changed nothing in this graph",)


def test_a_pass_of_passes_hands_on_nothing_that_it_did_not_say() -> None:
    """Notes of a pipeline within a pass are that pipeline's."""

    def outer(graph: Graph) -> Graph:
        assert run_pipeline(graph, "talks").notes == ("talks: there are 1 ops",)
        note("done")
        return graph

    assert run_pipeline(GRAPH, [outer]).notes == ("outer: done",)


def test_outside_a_pipeline_a_note_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="^nobody listens$"):
        note("nobody listens")


def test_commands_show_notes(tmp_path: Path) -> None:
    model, engine = MODELS / "opt-tiny", tmp_path / "engine"
    compiling = ("compile", model, "-o", engine, "--passes", "talks", "--max-seq", 32, "--target", "torch")
    result = llmc(*compiling, "--dump-ir", tmp_path)
    assert result.status == 0, result.err
    assert "note: talks: there are " in result.err
    assert any(text.startswith("talks: there are ") for text in json.loads(llmc(*compiling, "--json").out)["notes"])
    assert "talks" not in llmc(*compiling, "--quiet").err
    optimized = llmc("opt", tmp_path / "00-lift.ir", "--passes", "talks", "-o", tmp_path / "out.ir")
    assert "note: talks: there are " in optimized.err


def test_a_trial_without_data_says_nothing(tmp_path: Path) -> None:
    """The passes run twice then, and what they say is said once."""
    made = library.compile(
        MODELS / "opt-tiny",
        tmp_path / "engine",
        passes="talks,quant=smoothquant",
        target="torch",
        max_seq=32,
        calib_samples=1,
        calib_length=16,
    )
    assert sum(text.startswith("talks: ") for text in made.notes) == 1
