"""`llmc eval harness`."""

import json
from functools import partial
from pathlib import Path

import pytest

import llmc as api
from tests.cli.llmc_command import llmc
from tests.llmc.evaluation.harness_tasks import write_tasks

pytest.importorskip("lm_eval")


@pytest.fixture(autouse=True)
def own_tasks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness's own ten thousand tasks take long to look through."""
    import lm_eval.tasks

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(_manager, lm_eval.tasks.TaskManager))


def _manager(kind, *, include_path=None, include_defaults=True):
    return kind(include_path=include_path, include_defaults=False)


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tasks").mkdir()
    return write_tasks(tmp_path / "tasks")


def test_results_are_shown_and_written(engine: Path, tasks: Path, tmp_path: Path) -> None:
    place = tmp_path / "results.json"
    given = ("eval", "harness", engine, "--tasks", "own_letters,own_choice", "--include-path", tasks, "--limit", 2)
    result = llmc(*given, "--json", "-q", "-o", place, "--log-samples")
    assert (result.status, result.err) == (0, "")
    content = json.loads(result.out)
    assert list(content["results"]) == ["own_letters", "own_choice"]
    assert 0 <= content["results"]["own_choice"]["acc_norm,none"] <= 1
    assert content["n-samples"]["own_choice"]["effective"] == 2
    written = json.loads(place.read_text())
    assert len(written.pop("samples")["own_choice"]) == 2
    assert written == content
    shown = llmc(*given, "--batch", 1)
    assert shown.out.split()[:2] == ["task", "metric"]
    assert "acc_norm" in shown.out
    assert "Scoring continuations" in shown.err


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--tasks", "own_letter"], "there is no task 'own_letter'; did you mean 'own_letters'?", "--include-path"),
        (["--tasks", "own_broken"], "cannot load the tasks own_broken", "data"),
        (
            ["--tasks", "own_texts", "--include-path", "missing"],
            "there is no folder missing of tasks",
            "takes a folder",
        ),
        (["--tasks", "own_texts", "-o", "missing/a.json"], "there is no folder missing to write a.json to", "mkdir"),
        (["--tasks", "own_texts"], "256 new tokens leave no room for a prompt", "max_gen_toks"),
    ],
)
def test_what_cannot_be_run_is_one_error(engine: Path, tasks: Path, arguments, message, hint) -> None:
    form = (tasks / "own_texts.yaml").read_text()
    (tasks / "own_broken.yaml").write_text(form.replace("own_texts", "own_broken"))
    (tasks / "own_texts.yaml").write_text(form.replace("max_gen_toks: 24, ", ""))
    options = {"--include-path": tasks, **dict(zip(arguments[::2], arguments[1::2], strict=True))}
    llmc("eval", "harness", engine, *(part for pair in options.items() for part in pair), "-q").failed(message, hint)


def test_an_engine_needs_a_tokenizer(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    api.compile(checkpoint, tmp_path / "bare", max_seq=32)
    llmc("eval", "harness", tmp_path / "bare", "--tasks", "any", "-q").failed("bare has no tokenizer", "tokenizer")
