"""Suggestions for misspelt names and paths."""

from pathlib import Path

import pytest

from compiler.suggest import did_you_mean, did_you_mean_path


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("cleanpu", "; did you mean 'cleanup'?"),
        ("TP", "; did you mean 'tp'?"),
        ("FP8", "; did you mean 'Fp8'?"),
        ("quantize-it-all", ""),
    ],
)
def test_the_nearest_name_is_meant_whatever_its_case(name: str, suggestion: str) -> None:
    assert did_you_mean(name, ["cleanup", "tp", "Fp8", "quant"]) == suggestion


def test_every_name_within_a_path_may_be_misspelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "opt-tiny").mkdir(parents=True)
    (tmp_path / "models" / "opt-text").touch()
    monkeypatch.chdir(tmp_path)
    assert did_you_mean_path("modles/opt-tyni") == "; did you mean 'models/opt-tiny'?"
    assert (
        did_you_mean_path(tmp_path / "Models" / "opt-tiny") == f"; did you mean '{tmp_path / 'models' / 'opt-tiny'}'?"
    )
    assert did_you_mean_path("models/opt-tex", Path.is_file) == "; did you mean 'models/opt-text'?"
    assert did_you_mean_path("models/opt-tex", Path.is_dir) == ""
    assert did_you_mean_path("models/pythia") == ""
    assert did_you_mean_path("models/opt-text/inside") == ""
