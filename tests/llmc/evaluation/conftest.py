"""An engine that tests of evaluation share."""

from pathlib import Path

import pytest

import llmc
from tests.paths import MODELS


@pytest.fixture(scope="session")
def whole_context(tmp_path_factory) -> Path:
    """The engine of gptneox-tiny in float32 for four sequences of its whole context, 512 tokens. Do not change it."""
    place = tmp_path_factory.mktemp("evaluation") / "engine"
    return llmc.compile(MODELS / "gptneox-tiny", place, dtype="float32", max_batch=4).path
