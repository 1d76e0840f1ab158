"""Files of weights, and formats, that a user names: GPTQ files beside a checkpoint in the Hugging Face layout."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from compiler.errors import CheckpointError, LlmcError, RequestError
from compiler.frontends import open_checkpoint
from compiler.frontends.source_options import FORMATS, parse_weights_format, source_options
from tests.cli.llmc_command import llmc
from tests.frontends.layouts import tensorrt_llm_writer as trtllm
from tests.frontends.layouts.compared import assert_same_model, lifted
from tests.frontends.quantized import writers
from tests.frontends.quantized.checkpoints import neox, write
from tests.frontends.quantized.test_importers import gptq_config


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model unquantized."""
    folder = tmp_path_factory.mktemp("original")
    neox().save_pretrained(folder)
    return folder


def gptq(folder: Path, **options: Any) -> Path:
    """The model as a tool that also writes a config quantizes it."""
    config = {
        "bits": options.get("bits", 4),
        "group_size": options.get("group", 16),
        "desc_act": options.get("order", False),
        "checkpoint_format": "gptq" if options.get("less_one", True) else "gptq_v2",
    }
    write(neox(), writers.gptq(**options), folder, **gptq_config(**config))
    return folder


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "gptq:bits=4:group=16"),
        ({"order": True}, "gptq:bits=4:group=16:act_order=true"),
        ({"less_one": False}, "gptq:bits=4:group=16:zeros=v2"),
        ({"bits": 8, "group": -1}, "gptq:bits=8:group=-1"),
        ({"bits": 3, "group": 32}, "gptq"),  # what is not said is what is stored
    ],
)
def test_gptq_files_without_a_config(
    original: Path, tmp_path: Path, suffix: str, options: dict[str, Any], said: str
) -> None:
    whole = gptq(tmp_path / "whole", **options)
    file = tmp_path / f"llama{suffix}"
    if suffix == ".pt":
        torch.save(load_file(whole / "model.safetensors"), file)
    else:
        shutil.copy(whole / "model.safetensors", file)
    assert_same_model(original, whole, source=source_options(file, said))


def test_awq_files_without_a_config(original: Path, tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 16}}
    write(neox(), writers.awq(), tmp_path, **config)
    assert_same_model(original, tmp_path, source=source_options(tmp_path / "model.safetensors", "awq:group=16"))


def test_a_file_of_floats_needs_no_format(original: Path, tmp_path: Path) -> None:
    model = neox()
    model.gpt_neox.final_layer_norm.weight.data += 1
    model.save_pretrained(tmp_path)
    assert_same_model(original, tmp_path, source=source_options(tmp_path / "model.safetensors"))


def test_a_format_is_for_files_in_the_folder_too(original: Path, tmp_path: Path) -> None:
    whole, bare = gptq(tmp_path / "whole"), tmp_path / "bare"
    shutil.copytree(original, bare)
    shutil.copy(whole / "model.safetensors", bare)
    assert_same_model(bare, whole, source=source_options(weights_format="gptq"))
    with pytest.raises(CheckpointError, match="is quantized, and no config says how") as caught:
        lifted(bare)
    assert "--weights-format gptq:bits=4:group=128" in str(caught.value.hint)


REFUSED: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "a file that is missing": (lambda a, b: source_options(b / "x.safetensors"), "there is no file"),
    "a file of another kind": (lambda a, b: source_options(a / "config.json"), "is no file of weights"),
    "a format of another layout": (
        lambda a, b: source_options(weights_format="tensorrt-llm:gpu=hopper"),
        "is of the layout hugging-face",
    ),
    "floats said to be GPTQ's": (
        lambda a, b: source_options(weights_format="gptq"),
        "none that is stored has 'qzeros'",
    ),
    "a width that is not stored": (
        lambda a, b: source_options(gptq(b / "gptq") / "model.safetensors", "gptq:bits=8"),
        "qweight",
    ),
    "a group that is not stored": (
        lambda a, b: source_options(gptq(b / "gptq") / "model.safetensors", "gptq:bits=4:group=8"),
        "scales",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_said_must_fit(original: Path, tmp_path: Path, case: str) -> None:
    source, message = REFUSED[case]
    with pytest.raises(LlmcError, match=message):
        lifted(original, source(original, tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gptk", "there is no weights format 'gptk'"),
        ("gptq:bit=4", "has no option 'bit=4'"),
        ("gptq:bits", "has no option 'bits'"),
        ("gptq:bits=four", "is 'four', not an integer"),
        ("gptq:sym=yes", "is 'yes'"),
        ("tensorrt-llm:gpu=blackwell", "is 'blackwell'"),
    ],
)
def test_formats_are_checked_first(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        parse_weights_format(text)
    assert caught.value.hint or "not an integer" in message


def test_every_format_has_an_example() -> None:
    assert {parse_weights_format(name).name for name in FORMATS} == set(FORMATS)


def test_a_rank_checkpoint_takes_no_other_file_of_weights(original: Path, tmp_path: Path) -> None:
    folder = trtllm.write(neox(), tmp_path)
    with pytest.raises(RequestError, match="needs a checkpoint in the Hugging Face layout"):
        open_checkpoint(folder, source=source_options(original / "model.safetensors"))


def test_on_the_command_line(original: Path, tmp_path: Path) -> None:
    file = gptq(tmp_path / "gptq") / "model.safetensors"
    said = ("--weights", file, "--weights-format", "gptq:bits=4:group=16")
    graph = llmc("lift", original, *said)
    assert graph.status == 0, graph.err
    assert " unpack" in graph.out
    shown = llmc("inspect", original, "--json", *said)
    assert json.loads(shown.out)["ops"]["unpack"], shown.err
    assert shown.err == ""
    assert llmc("opt", original, "-o", tmp_path / "a.ir", *said).out == ""
    assert "i4" in (tmp_path / "a.ir").read_text()
    made = llmc("compile", original, "-o", tmp_path / "a.engine", "--target", "torch", *said)
    assert made.status == 0, made.err
    llmc("compile", original, "-o", tmp_path / "b.engine", "--weights-format", "gptk").failed(
        "there is no weights format 'gptk'; did you mean 'gptq'?", "the formats are"
    )
