"""`llmc eval ppl`, against transformers and by its definition."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import llmc as api
from llmc.evaluation.scoring import Score, windows
from tests.cli.llmc_command import llmc
from tests.paths import MODELS, ROOT

TEXT = (ROOT / "README.md").read_text()[:3000]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text of some hundred tokens."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def ppl(*arguments: Any) -> dict[str, Any]:
    """What `llmc eval ppl --json` printed, which succeeded."""
    result = llmc("eval", "ppl", *arguments, "--json")
    assert result.status == 0, result.err
    content: dict[str, Any] = json.loads(result.out)
    return content


@torch.no_grad()
def expected(model: str, window: int) -> list[Tensor]:
    """The log-probabilities by transformers, in float32: for each window `[tokens - 1, vocabulary]`."""
    network: Any = transformers.AutoModelForCausalLM.from_pretrained(MODELS / model, dtype=torch.float32).eval()
    return [
        network(torch.tensor([part])).logits[0, :-1].double().log_softmax(-1) for part in windows(ids(model), window)
    ]


def ids(model: str) -> list[int]:
    """The text's tokens by transformers."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(MODELS / model)
    return list(tokenizer(TEXT)["input_ids"])


def nll(model: str, window: int) -> tuple[float, int]:
    """Mean negative log-likelihood by transformers, and the number of scored tokens."""
    scores = [
        -logs.gather(1, torch.tensor(part[1:])[:, None])
        for logs, part in zip(expected(model, window), windows(ids(model), window), strict=True)
    ]
    every = torch.cat(scores)
    return every.mean().item(), len(every)


@pytest.mark.parametrize("model", ["gptneox-tiny", "gptj-tiny", "opt-tiny", "mpt-tiny"])
def test_checkpoints_score_as_in_transformers(text: Path, model: str) -> None:
    content = ppl(MODELS / model, "--text", text, "--window", 100)
    mean, count = nll(model, 100)
    assert sorted(content) == ["nll", "ppl", "tokens"]
    assert content["tokens"] == count
    assert content["nll"] == pytest.approx(mean, rel=1e-5)
    assert content["ppl"] == pytest.approx(math.exp(mean), rel=1e-5)


@pytest.mark.parametrize("executor", ["torch", "interpreter"])
def test_engines_score_alike_by_any_executor(engine: Path, text: Path, executor: str) -> None:
    content = ppl(engine, "--text", text, "--executor", executor, "--window", 60)
    assert content["nll"] == pytest.approx(nll("gptneox-tiny", 60)[0], rel=1e-5)


def test_the_emulator_scores_the_plans(tmp_path: Path, text: Path) -> None:
    text.write_text(TEXT[:200])
    arguments = ("compile", MODELS / "gptneox-tiny", "-o", tmp_path / "engine", "--dtype", "float32", "--max-seq", 32)
    assert llmc(*arguments, "--max-batch", 2, "--target", "tensorrt-rtx", "-q").status == 0
    found, wanted = (ppl(tmp_path / "engine", "--text", text, "--executor", name) for name in ("emulator", "torch"))
    assert found["tokens"] == wanted["tokens"]
    assert found["nll"] == pytest.approx(wanted["nll"], rel=1e-4)


def test_a_text_from_windows_scores_as_any_other(engine: Path, text: Path) -> None:
    arguments = ("eval", "ppl", engine, "--text", text, "--window", 64, "--json")
    expected = json.loads(llmc(*arguments).out)
    lines = TEXT.count("\n")
    assert lines > 10
    text.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    result = llmc(*arguments)
    content = json.loads(result.out)
    [note] = content.pop("notes")
    assert content == expected
    assert note.startswith(f"{text}: the byte order mark at its beginning is left out, and {lines} line ends of")
    assert f"note: {note}" in result.err


def test_a_text_may_come_from_standard_input(engine: Path, text: Path) -> None:
    result = llmc("eval", "ppl", engine, "--text", "-", "--json", stdin=TEXT)
    assert json.loads(result.out) == ppl(engine, "--text", text)
    llmc("eval", "ppl", engine, "--text", "-", stdin="").failed("standard input is empty", "a text to score")


def test_the_window_is_what_the_engine_takes(engine: Path, text: Path) -> None:
    result = llmc("eval", "ppl", engine, "--text", text, "--json")
    assert "note: windows have 64 tokens, not 512: an engine takes no more at once" in result.err
    assert json.loads(result.out)["nll"] == pytest.approx(nll("gptneox-tiny", 64)[0], rel=1e-5)


def test_tokens_around_the_text_can_be_left_out(metaspace_engine: Path, text: Path) -> None:
    text.write_text("the list w7")
    assert ppl(metaspace_engine, "--text", text)["tokens"] == 3
    assert ppl(metaspace_engine, "--text", text, "--no-special-tokens")["tokens"] == 2


def test_two_models_are_compared(engine: Path, text: Path) -> None:
    same = ppl(engine, "--text", text, "--against", MODELS / "gptneox-tiny")
    assert same["kl"] == pytest.approx(0, abs=1e-6)
    assert same["agreement"] > 0.99
    other = ppl(engine, "--text", text, "--against", MODELS / "mpt-tiny")
    ours, theirs = torch.cat(expected("gptneox-tiny", 64)), torch.cat(expected("mpt-tiny", 64))
    assert other["kl"] == pytest.approx((theirs.exp() * (theirs - ours)).sum(-1).mean().item(), rel=1e-4)
    agreed = (ours.argmax(-1) == theirs.argmax(-1)).double().mean().item()
    assert other["agreement"] == pytest.approx(agreed, abs=0.01)
    assert other["nll"] == pytest.approx(nll("gptneox-tiny", 64)[0], rel=1e-5)


def test_people_get_a_table(engine: Path, text: Path) -> None:
    result = llmc("eval", "ppl", engine, "--text", text, "--against", engine)
    assert [line.split("  ")[0] for line in result.out.splitlines()] == [
        *("perplexity", "tokens", "nll", "KL divergence", "agreement")
    ]
    assert "scoring the text ..." in result.err
    assert llmc("eval", "ppl", engine, "--text", text, "--quiet").err == ""


def test_the_library_does_what_the_command_does(engine: Path, text: Path) -> None:
    found = api.measure_perplexity(engine, TEXT, window=50)
    assert isinstance(found, api.Perplexity)
    assert found.to_json() == ppl(engine, "--text", text, "--window", 50)


@pytest.mark.parametrize(
    ("count", "sizes"), [(10, [4, 4, 2]), (9, [4, 4]), (8, [4, 4]), (3, [3]), (2, [2]), (1, []), (0, [])]
)
def test_windows(count: int, sizes: Sequence[int]) -> None:
    assert [len(part) for part in windows(range(count), 4)] == sizes


def test_a_score_of_logits_that_are_no_numbers_is_null() -> None:
    score = Score()
    score.add([0, 1], torch.tensor([[float("nan"), 0.0]]), None)
    assert api.Perplexity(score.nll, score.tokens).to_json() == {"ppl": None, "tokens": 1, "nll": None}
    assert api.Perplexity(1e4, 1).to_json()["ppl"] is None


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--window", 1], "the window is 1 tokens; it must be at least 2", None),
        (["--window", 65], "takes at most 64", "--max-input"),
        (["--stride", 8], "there is no stride '8'", None),
        (["--executor", "jax"], "there is no executor 'jax'", None),
        (["--dtype", "float16"], "is an engine, whose element type is fixed", "leave out --dtype"),
        (["--against", "missing/model/x"], "there is no folder", None),
    ],
)
def test_bad_requests(engine: Path, text: Path, arguments: list[Any], message: str, hint: str | None) -> None:
    llmc("eval", "ppl", engine, "--text", text, *arguments, "--json").failed(message, hint)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"a", "fewer than two tokens"), (b"\xff\xfe", "is not UTF-8 text"), (None, "cannot read")],
)
def test_bad_texts(engine: Path, tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    llmc("eval", "ppl", engine, "--text", path, "-q").failed(message)


def test_a_checkpoint_without_a_tokenizer_takes_the_other_ones(checkpoint: Path, engine: Path, text: Path) -> None:
    for path in checkpoint.glob("tokenizer*"):
        path.unlink()
    llmc("eval", "ppl", checkpoint, "--text", text, "-q").failed("has no tokenizer", "tokenizer.json")
    assert ppl(checkpoint, "--text", text, "--against", engine)["agreement"] > 0.99


def test_another_vocabulary_cannot_be_compared(checkpoint: Path, engine: Path, text: Path) -> None:
    words = checkpoint / "tokenizer.json"
    content = json.loads(words.read_text())
    content["normalizer"] = {"type": "Lowercase"}
    words.write_text(json.dumps(content))
    result = llmc("eval", "ppl", engine, "--text", text, "--against", checkpoint, "-q")
    result.failed("differ on this text", "share a tokenizer")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "vocab_size": 512}))
    other = checkpoint.parent / "other"
    assert llmc("compile", checkpoint, "-o", other, "--dummy-weights", "-q").status == 0
    llmc("eval", "ppl", engine, "--text", text, "--against", other, "-q").failed(
        "has a vocabulary of 1024 tokens and", "share a tokenizer"
    )
    llmc("eval", "ppl", other, "--text", text, "-q").failed("the tokenizer gives the id", "different models")
