"""Checkpoints to read and to spoil."""

import shutil
from pathlib import Path

import pytest

from tests.frontends.models import neox


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-NeoX checkpoint in one file; not to be changed."""
    folder = tmp_path_factory.mktemp("single")
    neox().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(single: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(single, tmp_path / "model"))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """The same in several shards with an index."""
    neox().save_pretrained(tmp_path / "sharded", max_shard_size="5KB")
    return tmp_path / "sharded"
