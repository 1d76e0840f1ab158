"""Engines that several tests use, compiled once."""

from pathlib import Path

import pytest

from tests.cli.llmc_command import EXAMPLES, llmc


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine of gptneox-tiny in float32, for at most 3 sequences of 64 tokens. Do not change it."""
    place = tmp_path_factory.mktemp("engines") / "engine"
    result = llmc(
        "compile", EXAMPLES / "gptneox-tiny", "-o", place, "--dtype", "float32", "--max-batch", 3, "--max-seq", 64
    )
    assert result.status == 0, result.err
    return place


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of gptneox-tiny that a test may change; weights are linked."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for path in (EXAMPLES / "gptneox-tiny").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder
