"""`llmc eval summarize`, beside transformers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import llmc as api
from llmc.evaluation.articles import ArticleSource, read_articles
from runtime.load.loading import load_engine
from tests.cli.llmc_command import llmc
from tests.paths import MODELS

pytest.importorskip("rouge_score")
MODEL = MODELS / "gptneox-tiny"
SHORT = ("--max-new-tokens", 8)
TIMES = {"seconds": 0, "seconds_per_article": 0, "tokens_per_second": 0}


def summarized(*arguments: Any, status: int = 0) -> dict[str, Any]:
    """What `llmc eval summarize --json` printed."""
    result = llmc("eval", "summarize", *arguments, "--json")
    assert result.status == status, result.err
    content: dict[str, Any] = json.loads(result.out)
    return content


def texts(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("how", [(), ("--beams", 3, "--length-penalty", 2.0)], ids=["greedy", "beams"])
def test_an_engine_summarizes_as_transformers_does(engine: Path, tmp_path: Path, how: tuple[Any, ...]) -> None:
    place = tmp_path / "out.jsonl"
    content = summarized(engine, *SHORT, *how, "--articles", 4, "--against", MODEL, "-o", place)
    ours, theirs = content["engine"], content["against"]
    rows = texts(place)
    assert [row["summary"] for row in rows] == [row["against"] for row in rows]
    assert all(row["summary"] for row in rows)
    articles = read_articles(ArticleSource(), 4)
    assert [(row["article"], row["highlights"]) for row in rows] == [(each.text, each.highlights) for each in articles]
    for name in ("rouge1", "rouge2", "rougeL", "rougeLsum", "tokens"):
        assert ours[name] == theirs[name]
    assert (content["articles"], content["cut"], content["batch"]) == (4, 4, 1 if how else 3)
    assert ours["tokens"] <= 4 * 8
    for run in (ours, theirs):
        assert run["seconds_per_article"] == pytest.approx(run["seconds"] / 4)
        assert run["tokens_per_second"] == pytest.approx(run["tokens"] / run["seconds"])


def test_articles_are_cut_and_the_cue_stays(engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    generate = api.Engine.generate

    def watched(self: Any, prompts: Any, *given: Any, **named: Any) -> Any:
        seen.extend(prompts)
        return generate(self, prompts, *given, **named)

    monkeypatch.setattr(api.Engine, "generate", watched)
    place = tmp_path / "two.jsonl"
    place.write_text(
        '{"article": "It isn\'t long.", "highlights": "Short."}\n'
        + json.dumps({"article": "word " * 300, "highlights": "Words."})
    )
    found = api.summarize(engine, str(place), settings=api.SummarySettings(max_new_tokens=8), executor="torch")
    assert found.cut == 1
    tokenizer = api.load(engine).tokenizer
    assert tokenizer is not None
    _, short, long = seen  # the first warms up
    assert tokenizer.decode(short) == "It isn't long. TL;DR:"
    assert len(long) == 64 - 8
    assert tokenizer.decode(long).startswith("word word")
    assert tokenizer.decode(long).endswith(" TL;DR:")
    api.summarize(engine, str(place), settings=api.SummarySettings(max_new_tokens=8, input_tokens=20))
    assert [len(each) <= 20 for each in seen[3:]] == [True] * 3


def test_groups_change_no_text(engine: Path, tmp_path: Path) -> None:
    for name, how in (("a", ()), ("b", ("--batch", 2))):
        summarized(engine, *SHORT, "--articles", 5, *how, "-o", tmp_path / name)
    assert texts(tmp_path / "a") == texts(tmp_path / "b")


def test_the_threshold_sets_the_status(engine: Path) -> None:
    given = (engine, *SHORT, "--articles", 2)
    score = summarized(*given)["engine"]["rouge1"]
    assert "accuracy" not in summarized(*given)
    below = summarized(*given, "--check-accuracy", "--rouge1-threshold", score / 2)
    assert below["accuracy"] == {"rouge1_threshold": score / 2, "holds": True}
    result = llmc("eval", "summarize", *given, "--check-accuracy", "-q")
    assert result.status == 1
    assert result.err == f"error: ROUGE-1 is {score:.2f}, below the threshold of 15\n"


def test_people_get_tables(engine: Path) -> None:
    result = llmc("eval", "summarize", engine, *SHORT, "--articles", 2, "--against", MODEL, "--length-penalty", 2)
    assert result.status == 0
    assert "2 of 2 equal" in result.out
    assert result.out.count("ROUGE-Lsum") == 2
    assert "summarizing by transformers ..." in result.err
    assert "note: --length-penalty 2.0 has no effect without a beam search" in result.err


def test_what_is_drawn_follows_from_the_seed(engine: Path, tmp_path: Path) -> None:
    found = {}
    for name, how in (("a", ("--seed", 1)), ("b", ("--seed", 1)), ("c", ("--seed", 2))):
        summarized(engine, *SHORT, "--articles", 2, "--top-k", 20, *how, "-o", tmp_path / name)
        found[name] = [row["summary"] for row in texts(tmp_path / name)]
    assert found["a"] == found["b"] != found["c"]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--dataset", "missing.jsonl"], "there is no file missing.jsonl", "give a file"),
        (["--columns", "text"], "--columns 'text' is not two names", "article,highlights"),
        (["--columns", "text,summary"], "has no column 'text'; its columns are article, highlights, id", "--columns"),
        (["--articles", 0], "the number of articles is 0", None),
        (["--beams", 4], "at most 3 sequences, which are fewer than 4 beams", "--max-batch 4"),
        (["--batch", 4], "the batch is 4 articles; the engine takes 1 to 3 of 1", None),
        (["--max-new-tokens", 64], "64 new tokens leave no room for an article", "--max-seq"),
        (["--max-new-tokens", 62], "nothing is left for an article", "--max-seq"),
        (["--dtype", "float16"], "--dtype float16 is for --against", None),
        (["--against", "missing/model/x"], "there is no folder 'missing/model/x'", "config.json"),
        (["--top-k", 5, "--temperature", -1], "temperature", None),
        (["--rouge1-threshold", 101], "--rouge1-threshold is 101", None),
        (["-o", "missing/out.jsonl"], "there is no folder missing to write out.jsonl to", "mkdir"),
    ],
)
def test_bad_requests_fail_before_anything_is_loaded(
    engine: Path, arguments: list[Any], message: str, hint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("llmc.evaluation.open_model.load", lambda *a, **k: pytest.fail("the engine was loaded"))
    given = {"--max-new-tokens": 8, **dict(zip(arguments[::2], arguments[1::2], strict=True))}
    llmc("eval", "summarize", engine, *(part for pair in given.items() for part in pair), "-q").failed(message, hint)


def test_an_engine_needs_a_tokenizer_and_the_same_vocabulary(checkpoint: Path, engine: Path, tmp_path: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    api.compile(checkpoint, tmp_path / "bare", max_seq=32)
    llmc("eval", "summarize", tmp_path / "bare", "-q").failed("bare has no tokenizer", "tokenizer")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "vocab_size": 999}))
    result = llmc("eval", "summarize", engine, *SHORT, "--against", checkpoint, "-q")
    result.failed("has a vocabulary of 999 tokens, and the engine one of 1024", "made from")
    shutil.rmtree(tmp_path / "bare")


def test_the_ranks_of_an_engine_summarize_as_one(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_ranks(path: Path, answer: Any, *, hostfile: Path | None, **how: Any) -> None:
        answer(load_engine(path, **how))

    given = (engine, *SHORT, "--articles", 2)
    alone = summarized(*given)
    monkeypatch.setattr("llmc.cli.summarize_command.needs_ranks", lambda path: True)
    monkeypatch.setattr("llmc.cli.summarize_command.on_ranks", on_ranks)
    together = summarized(*given)
    assert {**together["engine"], **TIMES} == {**alone["engine"], **TIMES}
    llmc("eval", "summarize", *given, "--beams", 9, "-q").failed("fewer than 9 beams")
