"""`llmc run` with parameters: what options wish for is what the engine is asked for; texts while they come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import llmc as library
from runtime.generation.engine import Engine
from tests.cli.llmc_command import llmc
from tests.paths import MODELS

PROMPT = "The function returns a list of"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "engine"
    return library.compile(MODELS / "gptneox-tiny", folder, target="torch", dtype="float32", max_seq=96).path


@pytest.fixture(scope="module")
def engine(path: Path) -> Engine:
    return library.load(path, executor="torch", device="cpu")


def run(path: Path, *options: Any, stdin: str | None = None) -> str:
    result = llmc("run", path, "--device", "cpu", *options, stdin=stdin)
    assert result.status == 0, result.err
    return result.out


@pytest.mark.parametrize(
    ("options", "wish"),
    [
        ([], {}),
        (["--temperature", 0.9, "--top-p", 0.8, "--seed", 3, "--n", 2],
         {"temperature": 0.9, "top_p": 0.8, "seed": 3, "n": 2}),
        (["--beams", 3, "--num-return-sequences", 2, "--early-stopping", "never"],
         {"num_beams": 3, "num_return_sequences": 2, "early_stopping": "never"}),
        (["--repetition-penalty", 1.3, "--logit-bias", "302=5", "--logprobs", 1],
         {"repetition_penalty": 1.3, "logit_bias": {302: 5.0}, "logprobs": 1}),
        (["--stop", "the", "--prompt-logprobs", 0], {"stop": ["the"], "prompt_logprobs": 0}),
    ],
)  # fmt: skip
def test_options_are_wishes(path: Path, engine: Engine, options: list[Any], wish: dict[str, Any]) -> None:
    lines = run(path, "--prompt", PROMPT, "--max-new-tokens", 8, "--json", *options).splitlines()
    expected = engine.generate([PROMPT], wish, max_new_tokens=8)
    found = [json.loads(line) for line in lines]
    for one, other in zip(found, [json.loads(json.dumps(each.to_json())) for each in expected], strict=True):
        assert one.keys() == other.keys()
        for key in ("token_ids", "text", "finish_reason", "sample", "seed"):
            assert one.get(key) == other.get(key)
        assert one.get("score", 0) == pytest.approx(other.get("score", 0), rel=1e-4)


def test_a_file_of_parameters_stands_behind_options(path: Path, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text('{"max_new_tokens": 5, "temperature": 1.0, "seed": 4}')
    out = run(path, "--prompt", PROMPT, "--params", tmp_path / "params.json", "--seed", 5, "--json")
    [expected] = engine.generate([PROMPT], max_new_tokens=5, temperature=1.0, seed=5)
    assert json.loads(out)["token_ids"] == expected.token_ids


def test_texts_are_shown_while_they_come(path: Path, engine: Engine) -> None:
    [expected] = engine.generate([PROMPT], max_new_tokens=9)
    assert run(path, "--prompt", PROMPT, "--max-new-tokens", 9, "--stream") == f"{PROMPT}{expected.text}\n"
    lines = run(path, "--prompt", PROMPT, "--max-new-tokens", 9, "--stream", "--json").splitlines()
    *pieces, whole = [json.loads(line) for line in lines]
    assert "".join(piece["piece"] for piece in pieces) == whole["text"] == expected.text
    assert [piece["token_id"] for piece in pieces] == whole["token_ids"]
    two = run(path, "--prompt", PROMPT, "--prompt", "A", "--max-new-tokens", 2, "--stream")
    assert two.startswith("--- 1 of 2 ---\nThe function") and "\n--- 2 of 2 ---\nA" in two


def test_several_texts_of_a_stream_come_one_after_the_other(path: Path, engine: Engine) -> None:
    how = ("--prompt", PROMPT, "--max-new-tokens", 5, "--stream")
    drawn = engine.generate([PROMPT], max_new_tokens=5, temperature=1.0, n=3, seed=2)
    found = engine.generate([PROMPT], max_new_tokens=5, num_beams=2, num_return_sequences=2)
    for options, texts in (
        (("--n", 3, "--temperature", 1, "--seed", 2), drawn),
        (("--beams", 2, "--num-return-sequences", 2), found),
    ):
        expected = [
            f"--- text {number} of {len(texts)} ---\n{PROMPT}{text.text}\n" for number, text in enumerate(texts, 1)
        ]
        assert run(path, *how, *options) == "".join(expected)


def test_a_prompt_is_shown_when_it_is_served(path: Path) -> None:
    llmc("run", path, "--prompt-ids", 99999, "--stream").failed("prompt 1 holds the token id 99999")


@pytest.mark.parametrize("options", [["--stream", "--prompt", PROMPT, "--prompt", "A"], ["--interactive"]])
def test_streams_have_timings_too(path: Path, options: list[str]) -> None:
    stdin = f"{PROMPT}\nA\n" if "--interactive" in options else None
    result = llmc("run", path, "--device", "cpu", "--stats", "--max-new-tokens", 4, *options, stdin=stdin)
    assert result.status == 0 and "; 8 steps; executor cpu" in result.err


def test_prompts_of_a_terminal_are_answered_one_by_one(path: Path, engine: Engine) -> None:
    out = run(path, "--interactive", "--max-new-tokens", 6, stdin=f"{PROMPT}\n\n  \nOnce\n")
    expected = [engine.generate([text], max_new_tokens=6)[0].text for text in (PROMPT, "Once")]
    assert out == "".join(f"{text}\n" for text in expected)


def test_an_interrupted_text_ends_and_the_program_goes_on(
    path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Engine.stream
    calls = []

    def stream(self: Engine, prompt: Any, *given: Any, **options: Any) -> Any:
        calls.append(prompt)
        for number, piece in enumerate(whole(self, prompt, *given, **options)):
            if len(calls) == 1 and number == 2:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(Engine, "stream", stream)
    out = run(path, "--interactive", "--max-new-tokens", 6, stdin=f"{PROMPT}\nOnce\n")
    [second] = engine.generate(["Once"], max_new_tokens=6)
    assert " (interrupted)\n" in out and out.endswith(f"{second.text}\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "A", "--interactive"], "prompts are read from the terminal"),
        (["--prompt", "A", "--beams", "2", "--temperature", "1"], "contradict each other"),
        (["--prompt", "A", "--n", "99", "--temperature", "1"], "asks for n=99; the engine runs at most 8"),
        (["--prompt", "A", "--chat"], "has no chat template"),
        (["--prompt-ids", "1", "--chat"], "messages are texts"),
    ],
)
def test_what_cannot_be_is_refused(path: Path, options: list[str], message: str) -> None:
    result = llmc("run", path, *options)
    assert result.status == 2 and message in result.err


def test_a_chat_template_writes_the_prompt(path: Path, engine: Engine, tmp_path: Path) -> None:
    import shutil

    source = shutil.copytree(MODELS / "gptneox-tiny", tmp_path / "model")
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}[assistant]"
    (source / "chat_template.jinja").write_text(template)
    made = library.compile(source, tmp_path / "engine", target="torch", dtype="float32", max_seq=96).path
    out = run(made, "--prompt", "Hello", "--chat", "--max-new-tokens", 6, "--json")
    [expected] = engine.generate(["[user] Hello [assistant]"], max_new_tokens=6, add_special_tokens=False)
    assert json.loads(out)["token_ids"] == expected.token_ids
