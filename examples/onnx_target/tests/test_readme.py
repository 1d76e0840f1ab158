from pathlib import Path

import pytest

from tests.guides import run_guide

pytest.importorskip("onnx", reason="the target needs the package onnx")
pytest.importorskip("onnxruntime", reason="the executor needs the package onnxruntime")


def test_the_tutorials_code_runs() -> None:
    run_guide(Path(__file__).resolve().parents[1] / "README.md")
