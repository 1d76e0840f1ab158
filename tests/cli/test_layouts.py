"""The command line takes checkpoints of other layouts as any model."""

import json
import re
import shutil
from pathlib import Path

import pytest
import transformers
from safetensors.torch import load_file
from torch import Tensor

from llmc.compiling.request import default_output
from tests.cli.llmc_command import llmc
from tests.frontends.layouts.compared import assert_same_tensors
from tests.frontends.layouts.ft_writer import write_gptj, write_mpt, write_neox, write_opt
from tests.frontends.layouts.neox_writer import write_by_layer
from tests.paths import MODELS

FT_WRITERS = {"gptneox": write_neox, "gptj": write_gptj, "opt": write_opt, "mpt": write_mpt}
OPTIONS = ("--dtype", "float32", "--target", "torch", "--max-batch", 1, "--max-seq", 32)


@pytest.fixture(scope="module")
def neox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled GPT-NeoX model as a run with two tensor-parallel parts leaves it, with its tokenizer beside."""
    folder = tmp_path_factory.mktemp("neox")
    model = transformers.GPTNeoXForCausalLM.from_pretrained(MODELS / "gptneox-tiny").float()
    write_by_layer(model, folder, 2)
    shutil.copy(MODELS / "gptneox-tiny" / "tokenizer.json", folder / "20B_tokenizer.json")
    return folder


def test_a_gpt_neox_directory_runs_as_its_model(neox, engine, tmp_path):
    made = llmc("compile", neox, "-o", tmp_path / "engine", *OPTIONS)
    assert made.status == 0, made.err
    assert "optim_states.pt" not in made.out
    assert "the state of the training run, which is not read" in made.err
    prompt = ("--prompt", "def f(x):", "--max-new-tokens", 8, "--temperature", 0)
    written = llmc("run", tmp_path / "engine", *prompt).out
    assert written
    assert written == llmc("run", engine, *prompt).out
    source = json.loads((tmp_path / "engine" / "manifest.json").read_text())["source"]
    assert source["folder"] == neox.name


def test_it_is_inspected_as_a_checkpoint(neox):
    found, usual = (json.loads(llmc("inspect", path, "--json").out) for path in (neox, MODELS / "gptneox-tiny"))
    assert found["kind"] == "checkpoint"
    assert found["facts"] == {**usual["facts"], "dtype": "f32"}


def test_what_is_missing_is_said(neox, tmp_path):
    folder = shutil.copytree(neox, tmp_path / "neox")
    (folder / "global_step10" / "layer_02-model_01-model_states.pt").unlink()
    llmc("compile", folder, "-o", tmp_path / "engine").failed("layer_02-model_01-model_states.pt is missing from")
    assert not (tmp_path / "engine").exists()


def test_a_file_of_a_directory_stands_for_nothing(neox):
    step = neox / "global_step10"
    file = step / "layer_00-model_00-model_states.pt"
    llmc("compile", file).failed(f"{file} is a file of a checkpoint, not a checkpoint", f"give its folder: {step}")


def test_a_folder_of_directories_names_them(neox, tmp_path):
    shutil.copytree(neox, tmp_path / "runs" / "first")
    llmc("compile", tmp_path / "runs").failed(
        f"{tmp_path / 'runs'} has no config.json", f"it holds checkpoints: give one of them, such as {tmp_path}"
    )


def test_dumps_do_not_go_into_a_checkpoint(neox, tmp_path):
    made = llmc("compile", neox, "-o", tmp_path / "engine", *OPTIONS, "--dump-ir", neox)
    made.failed(f"the dumps cannot go to {neox}, which is a checkpoint")


def engine_of(model: Path, place: Path) -> tuple[str, dict[str, Tensor]]:
    """The graph of a model's engine, without where its weights lie in their file, and the weights."""
    made = llmc("compile", model, "-o", place, *OPTIONS)
    assert made.status == 0, made.err
    return re.sub(r" at \d+", "", (place / "rank0.ir").read_text()), load_file(place / "rank0.safetensors")


@pytest.mark.parametrize("family", FT_WRITERS)
def test_the_engine_of_a_fastertransformer_directory_is_that_of_its_model(family, tmp_path):
    """The same graph and the same bits of weights, so that it computes the same bits."""
    model = transformers.AutoModelForCausalLM.from_pretrained(MODELS / f"{family}-tiny").float()
    FT_WRITERS[family](model, tmp_path / "ft", 2, max_pos_seq_len=512)
    model.save_pretrained(tmp_path / "hf")
    graph, weights = engine_of(tmp_path / "ft", tmp_path / "found")
    wanted, expected = engine_of(tmp_path / "hf", tmp_path / "expected")
    assert graph.splitlines() == wanted.splitlines()
    assert_same_tensors(weights, expected)


def test_the_default_place_of_a_model_of_one_file_has_no_ending(tmp_path):
    (tmp_path / "run.pt").touch()
    assert default_output(tmp_path / "run.pt") == Path("run.engine")
    assert default_output(tmp_path) == Path(f"{tmp_path.name}.engine")
