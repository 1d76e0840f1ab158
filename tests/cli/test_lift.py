"""`llmc lift`, and `llmc opt` of what is no .ir file: graphs without a compilation."""

import json
from pathlib import Path

import pytest

import llmc as api
from tests.cli.llmc_command import llmc
from tests.paths import MODELS

MODEL = MODELS / "opt-tiny"


def test_the_graph_is_that_which_compile_starts_from(tmp_path: Path) -> None:
    arguments = ("compile", MODEL, "-o", tmp_path / "engine", "--dump-ir", tmp_path / "dumps", "--max-seq", 64, "-q")
    assert llmc(*arguments, "--max-batch", 2).status == 0
    out = tmp_path / "model.ir"
    result = llmc("lift", MODEL, "-o", out, "--max-seq", 64, "--max-batch", 2)
    assert (result.status, result.out) == (0, "")
    assert f"note: {out}: 189 ops" in result.err
    assert llmc("diff", out, tmp_path / "dumps" / "00-lift.ir") == (0, "", "")
    assert Path(api.read_graph(out).root).resolve() == MODEL  # where its weights are found


@pytest.mark.parametrize("output", [(), ("-o", "-"), ("--output", "-")])
def test_without_a_file_the_graph_is_printed(output: tuple[str, ...], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = llmc("lift", MODEL, *output)
    assert result.status == 0
    assert api.parse(result.out) == api.lift(MODEL)
    assert llmc("opt", MODEL, *output).out == result.out
    assert list(tmp_path.iterdir()) == []


def test_graphs_go_through_pipes() -> None:
    lifted = llmc("lift", MODEL).out
    opted = llmc("opt", "-", "--passes", "merge-linears", stdin=lifted)
    assert opted.status == 0, opted.err
    assert api.parse(opted.out) == api.optimize(api.lift(MODEL), "merge-linears").graph
    assert json.loads(llmc("inspect", "-", "--json", stdin=lifted).out)["kind"] == "graph"
    assert llmc("diff", "-", MODEL, stdin=lifted) == (0, "", "")
    llmc("opt", "-", stdin="nonsense").failed("expected 'graph NAME' first")


def test_a_config_alone_is_lifted_with_made_up_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "colour": "blue"}))
    llmc("lift", checkpoint).failed("holds no weights", "--dummy-weights")
    result = llmc("lift", checkpoint, "--dummy-weights")
    assert "random" in {op.kind.name for op in api.parse(result.out).ops}
    assert "note: the config key 'colour' is not known and was ignored" in result.err
    assert llmc("lift", checkpoint, "--dummy-weights", "-q").err == ""
    opted = llmc("opt", checkpoint, "--dummy-weights", "--passes", "tp=2")
    assert "all_reduce" in {op.kind.name for op in api.parse(opted.out).ops}
    assert "'colour'" in opted.err


def test_opt_lifts_a_checkpoint_first_within_the_limits_given(tmp_path: Path) -> None:
    limits = ("--max-batch", 3, "--max-input", 16, "--max-seq", 32)
    lifted, out = tmp_path / "lifted.ir", tmp_path / "out.ir"
    assert llmc("lift", MODEL, *limits, "-o", lifted).status == 0
    graph = api.parse(llmc("opt", MODEL, *limits, "--passes", "merge-linears,tp=2").out)
    assert {name: dim.max for name, dim in graph.dims.items()} == {"B": 3, "S": 16, "C": 32, "R": 16}
    assert llmc("opt", lifted, "--passes", "merge-linears,tp=2", "-o", out).status == 0
    assert api.diff(api.read_graph(out), graph).empty is False  # other roots
    (tmp_path / "direct.ir").write_text(api.to_text(graph))
    assert llmc("diff", out, tmp_path / "direct.ir") == (0, "", "")


def test_opt_takes_the_graph_of_an_engine(engine: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.ir"
    assert llmc("opt", engine, "--passes", "dce", "-o", out).status == 0
    assert llmc("diff", out, engine) == (0, "", "")
    place = tmp_path / "split"
    assert llmc("compile", MODEL, "-o", place, "--passes", "tp=2", "-q").status == 0
    result = llmc("opt", place)
    assert api.parse(result.out).facts["rank"] == 0
    assert f"note: {place} has 2 ranks; the graph is that of rank 0" in result.err


def test_passes_that_need_data_say_where_they_can_be_seen() -> None:
    llmc("opt", MODEL, "--passes", "quant=awq", "-q").failed(
        "the pass 'quant' needs data to calibrate with", "--dry-run"
    )


def test_lifting_is_no_compiling(engine: Path) -> None:
    llmc("lift", engine).failed("is an engine, not a checkpoint", "compiled from, gptneox-tiny")
    llmc("lift", MODEL, "--max-seq", 9999).failed("has learned only 512 positions", "--max-seq 512")
