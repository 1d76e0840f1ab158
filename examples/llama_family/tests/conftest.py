"""The package, installed by pip into a folder of its own, as its users install it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugins.installing import install, on_path

PACKAGE = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(PACKAGE, tmp_path_factory.mktemp("llama-family"))


@pytest.fixture(scope="module", autouse=True)
def _installed(site: Path) -> Iterator[None]:
    """Every test finds the package by its entry points, and by nothing else."""
    with pytest.MonkeyPatch.context() as patch, on_path(site, patch):
        yield
