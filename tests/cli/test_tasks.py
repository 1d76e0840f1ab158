"""Tasks on the command line: `compile --prompts`, `run --task`, `inspect`, `verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.folders import PREFIX, Sizes, adapter, bundled, config, greedy, table, write
from tests.cli.llmc_command import llmc
from tests.paths import MODELS

MODEL = MODELS / "gptneox-tiny"
KINDS = {"soft": ("PROMPT_TUNING", 5), "prefix": (PREFIX, 7)}
IDS = [7, 8, 9, 300]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters in folders of the names of their tasks."""
    folder = tmp_path_factory.mktemp("adapters")
    for name, (kind, tokens) in KINDS.items():
        adapter(folder / name, kind, tokens)
    return folder


def compiled(place: Path, adapters: Path, *arguments: Any) -> Path:
    """An engine with the tasks."""
    prompts = [part for name in KINDS for part in ("--prompts", f"{name}={adapters / name}")]
    sizes = ("--dtype", "float32", "--max-batch", 3, "--max-seq", 40)
    result = llmc("compile", MODEL, "-o", place, *sizes, *prompts, *arguments)
    assert result.status == 0, result.err
    return place


@pytest.fixture(scope="module")
def engine(adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine with two tasks. Do not change it."""
    return compiled(tmp_path_factory.mktemp("engines") / "engine", adapters)


def expected(task: str | None, ids: list[int], count: int) -> list[int]:
    """What transformers gives after the virtual tokens of a task."""
    return greedy(bundled("gptneox"), ids, count, *((KINDS[task][0], table(*KINDS[task])) if task else ()))


def run(engine: Path, *arguments: Any) -> list[dict[str, Any]]:
    result = llmc("run", engine, "--json", "--max-new-tokens", 6, *arguments)
    assert result.status == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()]


@pytest.mark.parametrize("task", [None, "soft", "prefix"])
def test_a_task_stands_before_every_prompt(engine: Path, task: str | None) -> None:
    option = ("--task", task) if task else ()
    found = run(engine, "--prompt-ids", "7,8,9,300", "--prompt-ids", "5", *option)
    assert [each["token_ids"] for each in found] == [expected(task, ids, 6) for ids in (IDS, [5])]
    assert [each["prompt_ids"] for each in found] == [IDS, [5]]
    assert [each.get("task") for each in found] == [task, task]


@pytest.mark.parametrize("stream", [False, True])
def test_a_file_names_the_task_of_each_prompt(engine: Path, tmp_path: Path, stream: bool) -> None:
    file = tmp_path / "prompts.jsonl"
    lines: list[Any] = ["The", {"prompt": "The", "task": "soft"}, {"prompt": "The", "task": None}]
    file.write_text("\n".join(map(json.dumps, lines)))
    arguments = ("--prompt-file", file, "--task", "prefix", "--max-new-tokens", 6, "--json")
    result = llmc("run", engine, *arguments, *(["--stream"] if stream else []))
    objects = [json.loads(line) for line in result.out.splitlines()]  # and nothing else
    found = [each for each in objects if "prompt" in each]
    assert [each["task"] for each in found] == ["prefix", "soft", "prefix"]
    for each in found:
        assert each["token_ids"] == expected(each["task"], each["prompt_ids"], 6)


def test_a_terminal_talks_to_one_task(engine: Path) -> None:
    [one] = run(engine, "--prompt", "The", "--task", "soft")
    result = llmc("run", engine, "--interactive", "--task", "soft", "--max-new-tokens", 6, stdin="The\nThe\n")
    assert result.out == 2 * f"{one['text']}\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "The", "task": "sofd"}, "the engine has no task 'sofd'; did you mean 'soft'?"),
        ({"prompt": "The", "task": 3}, "prompts.jsonl, line 1: the task is 3"),
    ],
)
def test_a_task_that_is_none_is_refused_before_the_engine_is_loaded(
    engine: Path, tmp_path: Path, line: Any, message: str
) -> None:
    (tmp_path / "prompts.jsonl").write_text(json.dumps(line))
    llmc("run", engine, "--quiet", "--prompt-file", tmp_path / "prompts.jsonl").failed(message)


def test_an_unknown_task_is_told_with_those_that_there_are(engine: Path) -> None:
    llmc("run", engine, "--quiet", "--prompt", "The", "--task", "x").failed("no task 'x'", "its tasks are soft, prefix")


def test_inspect_lists_the_tasks(engine: Path) -> None:
    facts = json.loads(llmc("inspect", engine, "--json").out)
    assert facts["tasks"] == [
        {"name": "soft", "kind": "PROMPT_TUNING", "first_id": 1024, "virtual_tokens": 5},
        {"name": "prefix", "kind": PREFIX, "first_id": 1029, "virtual_tokens": 7},
    ]
    assert "tasks" not in facts["facts"]
    shown = " ".join(llmc("inspect", engine).out.split())
    assert "tasks soft (PROMPT_TUNING, 5 virtual tokens); prefix (PREFIX_TUNING, 7 virtual tokens)" in shown
    assert "requests name one: --task NAME" in shown
    assert json.loads(llmc("inspect", engine / "rank0.ir", "--json").out)["tasks"] == facts["tasks"]
    assert json.loads(llmc("inspect", MODEL, "--json").out)["tasks"] == []


def test_verify_tries_every_task_where_the_reference_has_it(engine: Path) -> None:
    own = json.loads(llmc("verify", engine, "--prompts", 1, "--max-new-tokens", 3, "--json").out)
    assert own["holds"] and {run["prompt"] for run in own["runs"]} == {1, 2, 3}
    assert own["notes"][:2] == [
        "prompt 2 begins with the 5 virtual tokens of the task 'soft'",
        "prompt 3 begins with the 7 virtual tokens of the task 'prefix'",
    ]
    arguments = ("--against", MODEL, "--prompts", 1, "--max-new-tokens", 3, "--json")
    other = json.loads(llmc("verify", engine, *arguments).out)
    assert other["holds"] and {run["prompt"] for run in other["runs"]} == {1}
    assert "the tasks (soft, prefix) are not tried, because the reference does not have the same ones" in other["notes"]


@pytest.mark.parametrize("passes", ["tp=2,embed=vocab", "pp=2,cache=paged:block=8"])
def test_ranks_of_a_mesh_know_the_tasks(adapters: Path, tmp_path: Path, passes: str) -> None:
    pytest.importorskip("mpi4py")
    from tests.cli.test_ranks import run as run_ranks
    from tests.cli.test_ranks import texts

    engine = compiled(tmp_path / "engine", adapters, "--passes", passes)
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": "The", "task": task}) for task in KINDS))
    result = run_ranks("run", engine, "--json", "--max-new-tokens", 6, "--prompt-file", file)
    ids = json.loads(result.stdout.splitlines()[0])["prompt_ids"]
    assert texts(result) == [expected(task, ids, 6) for task in KINDS]


@pytest.mark.parametrize(
    ("given", "message"),
    [("soft", "'soft' is not TASK=DIR"), ("=a", "'=a' is not TASK=DIR"), ("a=", "'a=' is not TASK=DIR")],
)
def test_a_task_has_a_name_and_a_folder(tmp_path: Path, given: str, message: str) -> None:
    result = llmc("compile", MODEL, "-o", tmp_path / "engine", "--prompts", given)
    assert result.status == 2 and message in result.err


def test_a_name_is_given_once(tmp_path: Path) -> None:
    result = llmc("compile", MODEL, "-o", tmp_path / "engine", "--prompts", "a=x", "--prompts", "a=y")
    assert result.status == 2 and "the task 'a' is given twice" in result.err


@pytest.mark.parametrize("how", [(), ("--dry-run",)])
def test_an_adapter_of_another_model_leaves_nothing_behind(tmp_path: Path, how: tuple[str, ...]) -> None:
    sizes = Sizes(width=64)
    write(tmp_path / "a", config("P_TUNING", 3, sizes), {"prompt_embeddings": table("P_TUNING", 3, sizes=sizes)})
    result = llmc("compile", MODEL, "-q", "-o", tmp_path / "engine", "--prompts", f"x={tmp_path / 'a'}", *how)
    result.failed("has embeddings of 64 (token_dim); the model's have 128", "trained for this checkpoint")
    assert not (tmp_path / "engine").exists()
