"""Settings for every test."""

import os
import shutil
import tempfile

import pytest
import torch
from hypothesis import HealthCheck, settings

from compiler.cache import cache_folder
from runtime.executors.cpu.build import FOLDER, built_path, library_file, why_no_library

# Without a GPU, triton interprets kernels; it has to know before it is imported, as transformers does.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The same examples in every run: a test that fails, fails for everyone. No deadline: machines differ.
settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")


def pytest_configure(config: pytest.Config) -> None:
    """Keep what is cached for the time of the run: what an earlier one left must not change what this one says."""
    if hasattr(config, "workerinput"):
        return  # a parallel worker, which has the folder from its environment
    os.environ.setdefault(FOLDER, str(cache_folder()))  # what a library is made of is in its name
    if not why_no_library(built_path()):
        library_file(built_path())
    folder = tempfile.mkdtemp(prefix="llmc-tests-")
    os.environ["XDG_CACHE_HOME"] = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
