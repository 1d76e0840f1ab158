"""Engines that several tests use, compiled once."""

import json
from pathlib import Path

import pytest
from tokenizers import processors

from tests.cli.llmc_command import llmc
from tests.paths import MODELS
from tests.runtime.generation import small_tokenizers as small


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine of gptneox-tiny in float32, for at most 3 sequences of 64 tokens. Do not change it."""
    place = tmp_path_factory.mktemp("engines") / "engine"
    result = llmc(
        "compile", MODELS / "gptneox-tiny", "-o", place, "--dtype", "float32", "--max-batch", 3, "--max-seq", 64
    )
    assert result.status == 0, result.err
    return place


@pytest.fixture(scope="session")
def metaspace_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of gptneox-tiny whose tokenizer is of whole words, and ends every text with `<end>`. Do not change it.

    The ids 1 and 2 are the words `the` and `list`, 3 to 1022 the words `w3` to `w1022`, and `<end>` is 1023.
    """
    folder = tmp_path_factory.mktemp("metaspace")
    for path in (MODELS / "gptneox-tiny").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    made = small.words("▁the", "▁list", *(f"▁w{i}" for i in range(3, 1023)), special=("<end>",))
    around = {"single": "$A <end>", "pair": "$A $B", "special_tokens": [("<end>", 1023)]}
    made.post_processor = processors.TemplateProcessing(**around)
    made.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    result = llmc("compile", folder, "-o", folder / "engine", "--dtype", "float32", "--max-batch", 3, "--max-seq", 64)
    assert result.status == 0, result.err
    return folder / "engine"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of gptneox-tiny that a test may change; weights are linked."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for path in (MODELS / "gptneox-tiny").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder
