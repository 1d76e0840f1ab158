"""An option that does nothing is said, once, in a note, which `--json` has, too."""

import json
from pathlib import Path
from typing import Any

import pytest

from compiler.passes.quant.calibration.source import current_calibration
from llmc import dry_run, measure_perplexity
from llmc.cli.ranks import hosts_chosen
from runtime.executors.kind import find_executor
from runtime.load.ignored_options import Case, device_cases, ignored_notes
from tests.cli.llmc_command import Result, llmc
from tests.paths import MODELS

MODEL = MODELS / "gptneox-tiny"
NO_PLANS = "here: the engine is built for torch only (--target tensorrt-rtx takes"
NO_CALIBRATION = "here: no pass calibrates"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The function returns a list of the names that are in use. " * 20)
    return path


def notes_of(result: Result) -> list[str]:
    """The notes of a command that succeeded, but for what `--target auto` says."""
    assert result.status == 0, result.err
    said = [line.removeprefix("note: ") for line in result.err.splitlines() if line.startswith("note: ")]
    return [note for note in said if not note.startswith("target: ")]


COMPILATIONS: list[tuple[list[Any], list[str]]] = [
    ([], []),
    (["--target", "torch", "--batch-sizes", "1"], [f"--batch-sizes does nothing {NO_PLANS} it)"]),
    (
        ["--prompt-sizes", "8", "--capacities", "8"],
        [f"--prompt-sizes and --capacities do nothing {NO_PLANS} them)"],
    ),
    (
        ["--workers", 1, "--compute-capability", "8.9", "--profiling-verbosity", "none"],
        [f"--compute-capability, --profiling-verbosity and --workers do nothing {NO_PLANS} them)"],
    ),
    (["--optimization-level", 0], [f"--optimization-level does nothing {NO_PLANS} it)"]),
    (["--calib-samples", 1], [f"--calib-samples does nothing {NO_CALIBRATION}"]),
    (
        ["--calib", "text.txt", "--calib-length", 8, "--calib-seed", 1, "--passes", "tp=2"],
        [f"--calib, --calib-length and --calib-seed do nothing {NO_CALIBRATION}"],
    ),
    (["--calib", "text.txt", "--calib-samples", 1, "--calib-length", 8, "--passes", "quant=int8"], []),
    (["--calib", "text.txt", "--calib-samples", 1, "--calib-length", 8, "--passes", "kv=int8"], []),
    (["--calib-samples", 1, "--passes", "kv=off"], [f"--calib-samples does nothing {NO_CALIBRATION}"]),
    (
        ["--dtype", "float32", "--passes", "dtype=bfloat16"],
        ["--dtype does nothing here: the pass dtype=bfloat16 comes after it and decides"],
    ),
    (
        ["--dtype", "float32", "--passes", "dtype=f32"],
        ["--dtype does nothing here: the pass dtype=float32 comes after it and decides"],
    ),
    (["--dtype", "float32"], []),
    (
        ["--max-seq", 513],
        [
            "sequences may have 513 tokens, but the model was trained for 512: what it writes beyond them may be poor",
        ],
    ),
    (["--max-seq", 512], []),
]


@pytest.mark.parametrize(("arguments", "notes"), COMPILATIONS)
def test_compiling(text: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[Any], notes: list[str]) -> None:
    monkeypatch.chdir(text.parent)
    result = llmc("compile", MODEL, "-o", "engine", *arguments)
    assert notes_of(result) == notes
    told = json.loads(llmc("compile", MODEL, "-o", "engine", *arguments, "--json").out)["notes"]
    assert [note for note in told if not note.startswith("target: ")] == notes
    assert notes_of(llmc("compile", MODEL, "-o", "engine", *arguments, "--dry-run")) == notes


def test_what_a_plan_uses_is_not_noted(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    arguments = ("--target", "tensorrt-rtx", "--batch-sizes", "1", "--workers", 1, "--optimization-level", 1)
    assert notes_of(llmc("compile", MODEL, "-o", tmp_path / "e", *arguments, "--dry-run")) == []


def test_a_pass_of_the_users_that_calibrates_uses_the_options(text: Path) -> None:
    import llmc as api

    def look(graph: api.Graph) -> api.Graph:
        current_calibration().windows(graph)
        return graph

    made = api.compile(MODEL, text.parent / "e", passes=[look], calib=text, calib_length=8, target="torch")
    assert made.notes == ("look: it changed nothing in this graph",)


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        (["--executor", "interpreter", "--device", "cuda"], "--device does nothing here: the interpreter computes on"),
        (["--executor", "interpreter", "--device", "cpu"], None),
        (["--executor", "torch", "--device", "cpu", "--threads", 1], None),
    ],
)
def test_running_verifying_and_scoring(engine: Path, text: Path, arguments: list[Any], note: str | None) -> None:
    commands = [
        ("run", engine, "--prompt", "a", "--max-new-tokens", 1, *arguments),
        ("verify", engine, "--prompt", "a", "--max-new-tokens", 1, *arguments),
        ("eval", "ppl", engine, "--text", text, "--window", 32, *arguments),
        ("eval", "ppl", engine, "--text", text, "--window", 32, "--against", engine, *arguments),
    ]
    for command in commands:
        notes = notes_of(llmc(*command))
        assert len(notes) == (note is not None), command
        assert all(text.startswith(note or "") for text in notes)
    if note:
        assert json.loads(llmc(*commands[1], "--json").out)["notes"][0].startswith(note)
        assert json.loads(llmc(*commands[2], "--json").out)["notes"][0].startswith(note)


def test_the_number_of_random_prompts_beside_others(engine: Path) -> None:
    arguments = ("verify", engine, "--prompt-ids", "1,2", "--max-new-tokens", 1)
    assert notes_of(llmc(*arguments, "--prompts", 2)) == ["--prompts does nothing here: the prompts are given"]
    assert notes_of(llmc(*arguments, "--seed", 3)) == ["--seed does nothing here: no prompt is drawn"]
    assert notes_of(llmc(*arguments)) == []


def test_the_element_type_is_for_checkpoints(engine: Path, text: Path) -> None:
    arguments = ("eval", "ppl", MODEL, "--against", engine, "--text", text, "--window", 32)
    result = llmc(*arguments, "--dtype", "bfloat16", "--json")
    assert notes_of(result) == [f"--dtype is for the checkpoint: {engine} is an engine, whose element type is fixed"]
    assert 0 < json.loads(result.out)["kl"] != json.loads(llmc(*arguments, "--json").out)["kl"]
    llmc("eval", "ppl", engine, "--against", engine, "--text", text, "--dtype", "float16", "-q").failed(
        "is an engine, whose element type is fixed", "leave out --dtype"
    )


def test_what_is_odd_about_a_checkpoint_is_said_when_it_is_scored(checkpoint: Path, text: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "colour": "blue"}))
    notes: list[str] = []
    measure_perplexity(checkpoint, text.read_text(), window=32, against=checkpoint, note=notes.append)
    assert notes == ["the config key 'colour' is not known and was ignored"]


def test_what_lifts_nothing_has_no_use_for_limits(engine: Path) -> None:
    graph = engine / "rank0.ir"
    arguments = ("--max-seq", 8, "--max-batch", 1, "--dummy-weights", "-o", "-")
    for subject in (engine, graph):
        assert notes_of(llmc("opt", subject, *arguments)) == [
            f"--max-batch, --max-seq and --dummy-weights do nothing here: {subject} is not lifted, but has a graph"
        ]
        result = llmc("inspect", subject, "--dummy-weights", "--json")
        said = f"--dummy-weights does nothing here: {subject} is not lifted, but has a graph"
        assert notes_of(result) == json.loads(result.out)["notes"] == [said]
    assert notes_of(llmc("opt", MODEL, *arguments)) == []


def test_hosts_are_those_of_the_users_own_mpirun(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = Path("hosts")
    assert not hosts_chosen(hosts).holds
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert list(ignored_notes(hosts_chosen(hosts))) == [
        "--hostfile does nothing here: your own mpirun chooses the hosts"
    ]
    assert list(ignored_notes(hosts_chosen(None))) == []
    monkeypatch.setenv("LLMC_STDOUT_TERMINAL", "0")  # llmc started mpirun, and gave it the hosts
    assert not hosts_chosen(hosts).holds


@pytest.mark.parametrize(
    ("executor", "device", "gpu", "expected"),
    [
        ("torch", "cpu", True, False),
        ("torch", "auto", True, True),
        ("torch", "auto", False, False),
        ("torch", "cuda:1", True, True),
        ("tensorrt", "auto", True, True),
        ("emulator", "auto", True, False),
        ("interpreter", "cuda", True, False),
    ],
)
def test_threads_are_for_the_cpu(
    monkeypatch: pytest.MonkeyPatch, executor: str, device: str, gpu: bool, expected: bool
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    kind = find_executor(executor)
    on_gpu = kind.uses_gpu(device)
    assert on_gpu is expected
    notes = list(ignored_notes(*device_cases(kind, device, 4, on_gpu=on_gpu)))
    assert ("--threads does nothing here: the engine runs on a GPU" in notes) is expected


def test_names_are_listed_as_people_do() -> None:
    def said(*given: str) -> list[str]:
        return list(ignored_notes(Case(True, "so", {name: name in given for name in "abc"})))

    assert said() == []
    assert said("b") == ["b does nothing here: so"]
    assert said("a", "c") == ["a and c do nothing here: so"]
    assert said("a", "b", "c") == ["a, b and c do nothing here: so"]
    assert list(ignored_notes(Case(False, "so", {"a": True}))) == []


def test_the_library_says_the_same(tmp_path: Path) -> None:
    from compiler.backend_trt import BuildOptions

    run = dry_run(MODEL, tmp_path / "e", build=BuildOptions(workers=2), target="torch", calib_seed=1)
    assert run.notes == (f"--workers does nothing {NO_PLANS} it)", f"--calib-seed does nothing {NO_CALIBRATION}")
