"""The libraries of kernels that tests run."""

import os

import pytest

from runtime.executors.cpu.library import Library
from runtime.executors.cpu.paths import PATHS, CpuPath, available_paths, chosen_path


def tested_paths() -> list[CpuPath]:
    """The path of this CPU and plain C; with LLMC_TEST_ALL_PATHS=1 all that this CPU has."""
    if os.environ.get("LLMC_TEST_ALL_PATHS") == "1":
        return list(available_paths())
    return list(dict.fromkeys([chosen_path(), PATHS[-1]]))


@pytest.fixture(scope="session", params=tested_paths(), ids=lambda path: path.name)
def library(request: pytest.FixtureRequest) -> Library:
    return Library(request.param)
