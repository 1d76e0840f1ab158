"""`llmc inspect`, `passes`, `opt` and `diff`."""

import json
from pathlib import Path

import pytest

import llmc as api
from tests.cli.llmc_command import llmc
from tests.paths import MODELS


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dumps")
    arguments = ("compile", MODELS / "gptj-tiny", "-o", folder / "engine", "--dump-ir", folder, "-q")
    assert llmc(*arguments).status == 0
    return folder


def test_inspect_a_checkpoint() -> None:
    facts = json.loads(llmc("inspect", MODELS / "gptj-tiny", "--json").out)
    assert facts["kind"] == "checkpoint"
    assert facts["facts"]["family"] == "gptj"
    assert facts["facts"]["parameters"] == 1_053_440
    assert facts["weights"]["bytes_by_dtype"] == {"f16": 2 * 1_053_440}
    assert facts["ops"]["linear"] == 25
    assert facts["cache"] == {"states": 8, "bytes_per_token": 2048, "bytes_at_limits": 2048 * 8 * 512}
    assert "pipeline" not in facts


def test_inspect_an_engine_and_its_graph(engine: Path) -> None:
    facts = json.loads(llmc("inspect", engine, "--json").out)
    assert facts["kind"] == "engine"
    assert facts["pipeline"] == "dtype=float32,merge-linears,fuse-attention,cleanup"
    assert facts["limits"]["max_batch"] == 3
    assert facts["weights"]["bytes_by_dtype"].keys() == {"f32"}
    graph = json.loads(llmc("inspect", engine / "rank0.ir", "--json").out)
    assert graph["kind"] == "graph"
    assert graph["ops"] == facts["ops"]


@pytest.mark.parametrize("kind", ["checkpoint", "engine", "graph"])
def test_inspect_reads_well(engine: Path, kind: str) -> None:
    path = {"checkpoint": MODELS / "opt-tiny", "engine": engine, "graph": engine / "rank0.ir"}[kind]
    lines = llmc("inspect", path).out.splitlines()
    heads = [line.split("  ")[0] for line in lines if not line.startswith(" ")]
    assert heads[0] == kind
    assert {"family", "parameters", "weights", "ops", "dims", "cache"} <= set(heads)
    assert ("pipeline" in heads) == (kind == "engine")
    assert all(len(line) <= 110 or " " not in line.strip() for line in lines)


def test_passes_are_listed_with_options_and_defaults() -> None:
    text = llmc("passes").out
    for name in ("cleanup", "dtype", "fuse-attention", "merge-linears"):
        assert f"\n{name} " in "\n" + text
    assert "float32|float16|bfloat16" in text
    assert "Compute in another floating-point type" in llmc("passes", "dtype").out
    listed = json.loads(llmc("passes", "--json").out)
    assert {"name", "summary", "options"} <= listed[0].keys()
    llmc("passes", "dtyp").failed("there is no pass 'dtyp'; did you mean 'dtype'?")


def test_opt_writes_what_the_pipeline_gives(dumps: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out.ir"
    out.parent.mkdir()
    result = llmc("opt", dumps / "00-lift.ir", "--passes", "merge-linears", "-o", out, "--explain")
    assert (result.status, result.out) == (0, "")
    assert "applied to" in result.err
    assert api.diff(api.read_graph(dumps / "01-merge-linears.ir"), api.read_graph(out)).empty is False  # other roots
    assert llmc("diff", dumps / "01-merge-linears.ir", out) == (0, "", "")
    # The weights are found from the new place.
    assert Path(api.read_graph(out).root).resolve() == MODELS / "gptj-tiny"


def test_opt_prints_if_no_file_is_given(dumps: Path) -> None:
    result = llmc("opt", dumps / "00-lift.ir")
    assert result.status == 0
    assert api.parse(result.out) == api.parse((dumps / "00-lift.ir").read_text())


def test_opt_and_diff_name_what_is_wrong(dumps: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.ir"
    bad.write_text("graph g\ninput x: f32[2]\n\n.:\n  %y: f32[3] = relu(%x)\n\noutput y = %y\n")
    llmc("opt", bad).failed("bad.ir, line 5")
    llmc("opt", tmp_path / "missing.ir").failed("cannot read")
    llmc("opt", dumps / "00-lift.ir", "--passes", "nonsense").failed("there is no pass 'nonsense'")
    llmc("diff", bad, bad).failed("bad.ir, line 5")


def test_diff_shows_what_a_pass_did(dumps: Path) -> None:
    before, after = dumps / "00-lift.ir", dumps / "01-merge-linears.ir"
    result = llmc("diff", before, after)
    assert result.status == 1
    assert any(line.startswith("+ ") and "linear(" in line for line in result.out.splitlines())
    content = json.loads(llmc("diff", before, after, "--json").out)
    assert not content["equal"]
    assert content["added"]
    assert json.loads(llmc("diff", before, before, "--json").out)["equal"]


def test_diff_takes_checkpoints_and_engines(dumps: Path) -> None:
    assert llmc("diff", MODELS / "gptj-tiny", dumps / "00-lift.ir") == (0, "", "")
    assert llmc("diff", dumps / "engine", dumps / "engine" / "rank0.ir") == (0, "", "")
    assert llmc("diff", MODELS / "gptj-tiny", dumps / "engine").status == 1


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dumps of the same model with one more pass before the others."""
    folder = tmp_path_factory.mktemp("longer")
    arguments = ("compile", MODELS / "gptj-tiny", "-o", folder / "engine", "--dump-ir", folder / "dumps", "-q")
    assert llmc(*arguments, "--passes", "dce").status == 0
    return folder / "dumps"


def test_folders_of_dumps_are_compared_pass_by_pass(dumps: Path, longer: Path) -> None:
    result = llmc("diff", dumps, longer)
    assert result.status == 1
    assert result.out.splitlines() == [
        "== 00-lift.ir: the same",
        "== 01-merge-linears.ir | 02-merge-linears.ir: the same",
        "== 02-fuse-attention.ir | 03-fuse-attention.ir: the same",
        "== 03-cleanup.ir | 04-cleanup.ir: the same",
        f"== only in {longer}: 01-dce.ir",
    ]
    assert llmc("diff", dumps, dumps).status == 0
    content = json.loads(llmc("diff", dumps, longer, "--json").out)
    assert content["equal"] is False
    assert [(entry["a"], entry["b"], entry["equal"]) for entry in content["graphs"]] == [
        ("00-lift.ir", "00-lift.ir", True),
        ("01-merge-linears.ir", "02-merge-linears.ir", True),
        ("02-fuse-attention.ir", "03-fuse-attention.ir", True),
        ("03-cleanup.ir", "04-cleanup.ir", True),
        (None, "01-dce.ir", False),
    ]


def test_folders_of_dumps_that_differ_show_how(dumps: Path, tmp_path: Path) -> None:
    for path in dumps.glob("*.ir"):
        (tmp_path / path.name).write_text(path.read_text().replace("gelu(", "relu(").replace(", tanh=true", ""))
    result = llmc("diff", dumps, tmp_path)
    assert result.status == 1
    assert "== 03-cleanup.ir\n" in result.out
    assert any(line.startswith("+ ") and "relu(" in line for line in result.out.splitlines())


def test_a_folder_of_dumps_is_inspected_pass_by_pass(dumps: Path) -> None:
    facts = json.loads(llmc("inspect", dumps, "--json").out)
    assert (facts["kind"], facts["path"]) == ("dumps", str(dumps))
    assert [graph["file"] for graph in facts["graphs"]] == [
        *("00-lift.ir", "01-merge-linears.ir", "02-fuse-attention.ir", "03-cleanup.ir")
    ]
    first, *_, last = facts["graphs"]
    assert "softmax" in first["ops"]
    assert last["ops"]["attention"] == 4
    shown = " ".join(llmc("inspect", dumps).out.split())
    assert f"00-lift.ir {sum(first['ops'].values())} ops" in shown
    assert "softmax -4" in shown
    assert "attention +4" in shown


def test_identical_layers_are_shown_once(dumps: Path, tmp_path: Path) -> None:
    said = "... layers.1 to layers.3 are as layers.0, with %.after_mlp of the layer before in place of %embed.tokens"
    for result in (
        llmc("lift", MODELS / "gptj-tiny", "--fold-layers"),
        llmc("opt", dumps / "00-lift.ir", "--fold-layers"),
    ):
        assert said in result.out.splitlines()
    differing = llmc("diff", dumps / "00-lift.ir", dumps / "01-merge-linears.ir", "--fold-layers")
    assert differing.status == 1
    assert sum(line.startswith("... layers.1 to layers.3 are as layers.0") for line in differing.out.splitlines()) == 1
    folder = tmp_path / "dumps"
    made = llmc("compile", MODELS / "gptj-tiny", "--dry-run", "--dump-ir", folder, "--fold-layers", "-q")
    assert made.status == 0
    assert said in (folder / "00-lift.ir").read_text().splitlines()
    llmc("inspect", folder / "00-lift.ir").failed("leaves out layers that are as others", "without --fold-layers")
    both = llmc("diff", dumps, dumps, "--fold-layers")
    assert both.status == 0
    alone = llmc("compile", MODELS / "gptj-tiny", "-o", tmp_path / "e", "--dry-run", "--fold-layers")
    assert "--fold-layers does nothing here: there are no dumps without --dump-ir" in alone.err


def test_times_of_passes_and_phases_are_told(dumps: Path, tmp_path: Path) -> None:
    result = llmc("opt", dumps / "00-lift.ir", "--passes", "merge-linears,cleanup", "-o", tmp_path / "x.ir", "--timing")
    assert [line.split("  ")[0].strip() or line.split()[0] for line in result.err.splitlines()[2:8]] == [
        *("reading", "rewriting", "merge-linears", "cleanup", "writing", "in all")
    ]
    compiled = llmc("compile", MODELS / "gptj-tiny", "-o", tmp_path / "e", "--dry-run", "--timing", "-q")
    heads = [line.strip().split("  ")[0] for line in compiled.out.splitlines()]
    assert {"lift", "rewrite", "merge-linears", "fuse-attention", "in all"} <= set(heads)
