"""The package, and that of Llama and GPT-2, installed by pip into a folder of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.plugins.installing import install, on_path

PACKAGES = ("onnx_target", "llama_family")


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [install(ROOT / "examples" / name, tmp_path_factory.mktemp(name)) for name in PACKAGES]


@pytest.fixture(scope="module", autouse=True)
def _installed(sites: list[Path]) -> Iterator[None]:
    """Every test finds the packages by their entry points, and by nothing else."""
    onnx_target, llama_family = sites
    with pytest.MonkeyPatch.context() as patch, on_path(onnx_target, patch), on_path(llama_family, patch):
        yield
