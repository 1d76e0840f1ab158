"""`llmc trace`."""

import json
from pathlib import Path

import pytest

from tests.cli.llmc_command import llmc
from tests.llmc.tracing.faults import with_changed_weight
from tests.paths import MODELS

OPT = MODELS / "opt-tiny"


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in which a weight is wrong."""
    return with_changed_weight("opt", "layers.1.mlp.up.weight", tmp_path_factory.mktemp("bad"))


def test_models_that_agree_are_said_to(tmp_path: Path) -> None:
    result = llmc("trace", OPT, f"transformers:{OPT}", "--prompt", "The function returns")
    assert result.status == 0, result.err
    assert "they agree: values differ by up to" in result.out
    assert "run by transformers" in result.out
    assert "tolerance  4.9e-03 to 9.8e-03 of a value's RMS, by depth (float16)" in result.out
    assert "only in A" in result.out
    rows = [line.split()[:2] for line in result.out.splitlines() if line.startswith("layer ")]
    assert rows == [["layer", str(number)] for number in range(4)]


def test_the_first_op_that_differs_is_named_with_both_values(bad: Path) -> None:
    result = llmc("trace", bad, OPT, "--prompt-ids", "1,2,3")
    assert (result.status, result.err) == (1, "opening both sides ...\ncomparing values ...\n")
    assert "THEY PART at const %layers.1.mlp.up.weight from model.decoder.layers.1" in result.out
    assert ", at [3,5]: 4 in A, " in result.out
    part = result.out.split("THEY PART")[1]
    assert [line.split()[0] for line in part.splitlines()[-2:]] == ["A", "B"]
    assert "%layers.1.mlp.up " not in result.out
    everything = llmc("trace", bad, OPT, "--prompt-ids", "1,2,3", "--all").out
    assert any(line.startswith("%layers.1.mlp.up ") and "!" in line for line in everything.splitlines())


def test_json_has_the_same(bad: Path) -> None:
    result = llmc("trace", bad, OPT, "--prompt-ids", "1,2,3", "--json")
    assert (result.status, result.err) == (1, "")
    content = json.loads(result.out)
    assert (content["agree"], content["token_ids"]) == (False, [1, 2, 3])
    at = content["parting"]["at"]
    assert (at["a"]["name"], at["layer"], at["parts"]) == ("layers.1.mlp.up.weight", 1, True)
    assert at["difference"]["where"] == [3, 5]
    assert len(content["depths"]) == 6
    assert "comparisons" not in content
    every = json.loads(llmc("trace", bad, OPT, "--prompt-ids", "1,2,3", "--json", "--all").out)
    assert len(every["comparisons"]) == every["compared"] == content["compared"]


@pytest.mark.parametrize("kind", ["svg", "html", "png"])
def test_errors_by_depth_are_drawn(kind: str, bad: Path, tmp_path: Path) -> None:
    output = tmp_path / f"depth.{kind}"
    assert llmc("trace", bad, OPT, "--prompt-ids", "1,2,3", "--plot", output, "-q").out == ""
    content = output.read_bytes()
    assert content.startswith(b"\x89PNG") if kind == "png" else b"<svg" in content
    assert ("THEY PART" in content.decode(errors="replace")) is (kind == "html")


def test_what_is_wrong_with_the_options_is_said_first(tmp_path: Path) -> None:
    llmc("trace", OPT, OPT, "--plot", tmp_path / "x.pdf").failed("x.pdf is no picture", "use .png, .svg, .html")
    llmc("trace", OPT, OPT, "--prompt", "a", "--prompt-ids", "1").failed("there are two prompts", "--prompt or")
    llmc("trace", OPT, OPT, "--tolerance", "-1").failed("the tolerance is -1.0")
    llmc("trace", OPT, OPT, "--prompt-ids", "x").failed("holds something other than numbers")
    llmc("trace", OPT, tmp_path).failed("has no config.json")
    llmc("trace", OPT, f"transformers:{tmp_path}").failed(str(tmp_path))


def test_weights_may_be_made_up(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((OPT / "config.json").read_text())
    result = llmc("trace", tmp_path, tmp_path, "--dummy-weights", "-q")
    assert result.status == 0, result.err
