from pathlib import Path

from tests.guides import run_guide


def test_the_tutorials_code_runs() -> None:
    run_guide(Path(__file__).resolve().parents[1] / "README.md")
