"""`llmc bench`: what it measures is right where that does not depend on time."""

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import llmc as api
from compiler.ir.files import read_graph
from llmc.benchmarking.bench import _prompts
from llmc.benchmarking.runs import Load
from llmc.step_cost import Bandwidth, step_bytes
from tests.cli.llmc_command import llmc
from tests.paths import MODELS

MODEL = MODELS / "gptneox-tiny"
SMALL = ("--device", "cpu", "--input", 6, "--output", 3, "--repeat", 2, "--warm-up", 0)


@pytest.fixture(autouse=True)
def small_array(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read to measure the memory is small, so that it takes no time."""
    monkeypatch.setattr("llmc.step_cost._ARRAY_BYTES", 2**20)


def test_figures_bound_and_memory(engine: Path) -> None:
    given = ("--batch", "1,3", "--input", "6,20", "--output", 3, "--repeat", 2, "--device", "cpu")
    result = llmc("bench", engine, *given, "--json")
    assert result.status == 0, result.err
    content = json.loads(result.out)
    step = step_bytes(read_graph(engine / "rank0.ir"))
    assert content["step_bytes"] == {"weights": step.weights, "cache_per_token": step.cache_per_token}
    assert content["device"] == "cpu"
    assert [(cell["batch"], cell["input"], cell["output"]) for cell in content["cells"]] == [
        *((1, 6, 3), (1, 20, 3), (3, 6, 3), (3, 20, 3))
    ]
    for cell in content["cells"]:
        read = step.weights + cell["batch"] * (cell["input"] + 1.5) * step.cache_per_token
        assert cell["bound_seconds"] == pytest.approx(read / content["bandwidth"])
        assert cell["bound_share"] == pytest.approx(cell["bound_seconds"] / cell["token_seconds"]["median"])
        for name in ("first_token_seconds", "token_seconds", "tokens_per_second"):
            assert 0 < cell[name]["least"] <= cell[name]["median"] <= cell[name]["largest"]
        assert cell["host_bytes"] > step.weights
        assert cell["gpu_bytes"] is None
        assert cell["runner"] == "llmc (cpu)"


def test_kernels_are_measured_where_the_executor_can(engine: Path) -> None:
    content = json.loads(llmc("bench", engine, "--batch", 2, *SMALL, "--profile", "--json").out)
    (found,) = content["kernels"]
    assert (found["batch"], found["input"], found["output"]) == (2, 6, 3)
    attention = [each for each in found["kernels"] if each["kernel"].startswith("paged_attention ")]
    assert [each["ops"] for each in attention] == [4] and attention[0]["first"] > 0
    shown = llmc("bench", engine, "--batch", 2, *SMALL, "--profile").out
    assert "kernel, at 2 x 6" in shown
    other = llmc("bench", engine, "--batch", 2, *SMALL, "--profile", "--executor", "torch")
    assert "--profile does nothing here: torch does not measure its kernels" in other.err


def test_transformers_stands_beside_and_the_picture_shows_both(engine: Path, tmp_path: Path) -> None:
    page = tmp_path / "bench.html"
    result = llmc("bench", engine, "--batch", 2, *SMALL, "--against", MODEL, "-o", page)
    assert result.status == 0, result.err
    rows = [line.split() for line in result.out.splitlines() if line.startswith(("llmc (", "transformers"))]
    assert [row[0] for row in rows] == ["llmc", "transformers"]
    assert "measuring llmc (cpu) ..." in result.err
    assert "measuring transformers ..." in result.err
    text = page.read_text()
    assert "<svg" in text
    assert "first token, ms" in text


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_pictures(engine: Path, tmp_path: Path, name: str, begins: bytes) -> None:
    pytest.importorskip("matplotlib")
    assert llmc("bench", engine, "--batch", 1, *SMALL, "--plot", tmp_path / name, "-q").err == ""
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_what_is_measured_by_default_is_what_the_engine_takes(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, Any]] = []

    def generate(self: Any, prompts: Any, params: Any, on_update: Any) -> None:
        seen.append((len(prompts), len(prompts[0]), params.max_new_tokens))
        for number in range(len(prompts)):
            for _ in range(params.max_new_tokens):
                on_update(SimpleNamespace(token_id=1, group=SimpleNamespace(number=number)))

    monkeypatch.setattr(api.Engine, "generate", generate)
    result = llmc("bench", engine, "--device", "cpu")
    assert result.status == 0, result.err
    assert set(seen) == {(1, 32, 32)}
    assert len(seen) == 1 + 3
    assert "note: the engine runs at most 3 sequences at once, so that 8 are not measured" in result.err


def test_prompts_have_no_beginning_in_common() -> None:
    prompts = _prompts(Load(8, 16, 1), 1000, 0)
    assert len({prompt[0] for prompt in prompts}) == 8
    assert prompts == _prompts(Load(8, 16, 1), 1000, 0) != _prompts(Load(8, 16, 1), 1000, 1)


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--batch", "1,x"], "--batch '1,x' is no list of numbers", "--batch 1,8"),
        (["--batch", "1,4"], "no 4 sequences of", "--max-batch 4"),
        (["--input", "65"], "compiled with --max-input 64", "--max-input 65"),
        (["--input", "60", "--output", "5"], "compiled with --max-seq 64", "--max-seq 65"),
        (["--output", "1"], "--output holds 1; it must be at least 2", None),
        (["--repeat", 0], "--repeat is 0", None),
        (["--warm-up", -1], "--warm-up is -1", None),
        (["--dtype", "float16"], "--dtype float16 is for --against", None),
        (["--against-tool", "vllm"], "--against-tool vllm has nothing to run", "--against MODEL"),
        (["--against-tool", "vlm", "--against", MODEL], "there is no tool 'vlm'; did you mean 'vllm'?", "ctranslate2"),
        (["--against-tool", "vllm", "--against", MODEL], "vllm is not installed", "pip install vllm"),
        (["--against", MODELS / "none"], "there is no folder", None),
        (["-o", "a.gif"], "a.gif is no picture: its name ends with '.gif'", ".svg"),
        (["-o", "missing/a.svg"], "there is no folder missing", "mkdir"),
    ],
)
def test_bad_requests_fail_before_anything_is_loaded(
    engine: Path, arguments: list[Any], message: str, hint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr("llmc.evaluation.open_model.load", lambda *a, **k: pytest.fail("the engine was loaded"))
    llmc("bench", engine, *arguments, "-q").failed(message, hint)


def test_another_tool_is_given_the_same_load(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}
    asked: list[tuple[Any, int]] = []

    class LLM:
        def __init__(self, **how: Any) -> None:
            made.update(how)

        def generate(self, prompts: Any, wish: Any, *, use_tqdm: bool) -> None:
            asked.append((prompts, wish.max_tokens))

    vllm: Any = ModuleType("vllm")
    vllm.__spec__ = ModuleSpec("vllm", None)
    vllm.LLM, vllm.SamplingParams = LLM, lambda **wish: SimpleNamespace(**wish)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    given = ("--against", MODEL, "--against-tool", "vllm", "--batch", 2)
    content = json.loads(llmc("bench", engine, *given, *SMALL, "--json").out)
    assert [cell["runner"] for cell in content["cells"]] == ["llmc (cpu)", "vllm"]
    assert made == {"model": str(MODEL), "dtype": "float32", "max_model_len": 9, "enable_prefix_caching": False}
    prompts = [{"prompt_token_ids": prompt} for prompt in _prompts(Load(2, 6, 3), 1024, 0)]
    assert asked == [(prompts, 1), (prompts, 3)] * 2
    assert content["cells"][1]["bound_share"] is None
    monkeypatch.setattr(LLM, "__init__", lambda self, **how: (_ for _ in ()).throw(ValueError("no such model")))
    llmc("bench", engine, *given, *SMALL, "-q").failed("vllm cannot load", "--against-tool")


def test_the_compiler_says_what_a_token_takes_at_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("compile", MODEL, "-o", tmp_path / "e", "--max-seq", 32, "--dtype", "float32")
    for rate, said in (
        (Bandwidth(2e9, "measured on this CPU"), "a token takes 1.85 ms or more: {} at 2 GB/s (measured on this CPU)"),
        (None, "{} for a token"),
    ):
        monkeypatch.setattr("llmc.step_cost.usual_bandwidth", lambda rate=rate: rate)
        for more in ((), ("--dry-run",)):
            (line,) = [line for line in llmc(*given, *more).out.splitlines() if line.startswith("bound ")]
            assert line.removeprefix("bound").strip() == said.format("3.7 MB of weights are read")
