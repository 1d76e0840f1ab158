"""Progress reaches its total when a phase is done, never falls back within it, and says what is in work."""

from itertools import pairwise
from pathlib import Path

import pytest

import llmc
from compiler.progress import shared_progress
from llmc import SamplingParams
from llmc.cli.prompts import TaskPrompt
from llmc.cli.run_command import _generate
from llmc.progress import Phase, Phases
from tests.paths import MODELS

Calls = list[tuple[str, int, int]]


def stages_of(calls: Calls) -> list[str]:
    """The phases in the order in which they began; all of them were told as they should be."""
    by_stage: dict[str, list[tuple[int, int]]] = {}
    for phase, done, total in calls:
        assert 0 <= done <= total, (phase, done, total)
        by_stage.setdefault(str(phase), []).append((done, total))
    for phase, told in by_stage.items():
        done, total = told[-1]
        assert done == total > 0, (phase, told)
        for (before, total_before), (after, total_after) in pairwise(told):
            if after < before:  # the work begins again, after all of it was done
                assert before == total_before, (phase, told)
            else:
                assert total_after == total_before or before == 0, (phase, told)
    return list(by_stage)


@pytest.fixture
def calls() -> Calls:
    return []


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch) -> None:
    """Nothing that earlier builds or calibrations kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def told(calls: Calls):
    return lambda *call: calls.append(call)


def test_compiling_with_passes_that_calibrate(calls: Calls, tmp_path: Path) -> None:
    llmc.compile(
        MODELS / "opt-tiny", tmp_path / "engine", passes="quant=awq,kv=int8,tp=2", target="torch",
        calib_samples=3, calib_length=16, progress=told(calls),
    )  # fmt: skip
    assert stages_of(calls) == [
        *("lift", "rewrite", "calibrate", "tokenizer", "weights", "source digest", "engine digest")
    ]
    rewrites = [(phase.detail, done, total) for phase, done, total in calls if isinstance(phase, Phase)]
    assert rewrites == [
        ("a dry run", 0, 0),
        ("quant=awq", 0, 6),
        ("kv=int8", 1, 6),
        ("tp=2", 2, 6),
        ("merge-linears", 3, 6),
        ("fuse-attention", 4, 6),
        ("cleanup", 5, 6),
    ]
    assert [call for call in calls if call[0] == "rewrite"][-1] == ("rewrite", 6, 6)
    # The caches are calibrated in one go: batches are what can be counted.
    assert ("calibrate", 1, 1) in calls


def test_made_up_weights_leave_nothing_to_hash(calls: Calls, tmp_path: Path) -> None:
    llmc.compile(MODELS / "opt-tiny", tmp_path / "engine", dummy_weights=True, target="torch", progress=told(calls))
    assert "source digest" in stages_of(calls)


@pytest.mark.parametrize("again", [False, True], ids=["new", "from the cache"])
def test_building_plans_of_several_ranks(calls: Calls, tmp_path: Path, again: bool) -> None:
    pytest.importorskip("tensorrt_rtx")

    def build(progress) -> None:
        llmc.compile(
            MODELS / "opt-tiny", tmp_path / "engine", passes="tp=2", target="tensorrt-rtx", max_batch=1, max_seq=16,
            progress=progress,
        )  # fmt: skip

    if again:
        build(None)
    build(told(calls))
    assert "build tensorrt-rtx" in stages_of(calls)
    [total] = {total for phase, _, total in calls if phase == "build tensorrt-rtx" and total} - {1}
    assert total % 200 == 0  # two ranks, each plan of which counts for a hundred


def test_verifying_and_scoring(calls: Calls, tmp_path: Path) -> None:
    engine = llmc.compile(MODELS / "opt-tiny", tmp_path / "engine", target="torch").path
    llmc.verify(engine, random=2, max_new_tokens=2, progress=told(calls))
    assert stages_of(calls) == ["load", "engine digest", "verify"]
    assert [phase.detail for phase, _, _ in calls if isinstance(phase, Phase)] == [
        *("prompt 1 alone", "prompt 2 alone", "all prompts in a batch")
    ]
    calls.clear()
    llmc.measure_perplexity(engine, "The function returns a list.", against=MODELS / "opt-tiny", progress=told(calls))
    assert stages_of(calls)[-1] == "scoring the text"


def test_a_failed_verification_looks_for_the_difference(calls: Calls, tmp_path: Path) -> None:
    engine = llmc.compile(MODELS / "opt-tiny", tmp_path / "engine", target="torch", max_seq=32).path
    result = llmc.verify(engine, MODELS / "gptj-tiny", random=1, max_new_tokens=1, progress=told(calls))
    assert not result.holds
    assert stages_of(calls)[-1] == "looking for the difference"


class Bars:
    """A console with bars, as `llmc run` takes it."""

    bars = True

    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    def __call__(self, *call) -> None:
        self.calls.append(call)


def test_a_text_that_ends_early_is_all_of_its_work(calls: Calls, tmp_path: Path) -> None:
    engine = llmc.load(llmc.compile(MODELS / "opt-tiny", tmp_path / "engine", target="torch", max_seq=16).path)
    [first] = engine.generate("The", max_new_tokens=1)
    engine.manifest.__dict__["tokens"] = type(engine.manifest.tokens)(eos=(first.token_ids[0],))
    [ended] = _generate(engine, [TaskPrompt("The")], SamplingParams(max_new_tokens=8), True, Bars(calls), [])  # type: ignore[arg-type]
    assert len(ended.token_ids) == 1
    assert stages_of(calls) == ["generate"]
    assert calls[-1] == ("generate", 8, 8)


def test_parts_count_alike_and_the_whole_never_falls_back() -> None:
    heard: list[tuple[int, int]] = []
    one, two = shared_progress(lambda done, total: heard.append((done, total)), 2)
    one(1, 4)
    two(1, 2)
    one(2, 100)  # it has found that there is more to do
    one(100, 100)
    two(2, 2)
    two(1, 1)
    assert heard == [(25, 200), (75, 200), (150, 200), (200, 200)]


def test_a_stage_that_fails_has_not_reached_its_total(calls: Calls) -> None:
    def fail(phases: Phases) -> None:
        with phases.phase("work") as report:
            report(1, 3)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail(Phases(told(calls)))
    assert calls == [("work", 0, 0), ("work", 1, 3)]
