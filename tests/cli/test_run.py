"""`llmc run`."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import llmc as api
from tests.cli.llmc_command import llmc
from tests.paths import MODELS

PROMPTS = ["The function returns", "A", "In the following example, the", "Names are", "of the"]


def run(engine: Path, *arguments: Any, stdin: str | bytes | None = None) -> list[dict[str, Any]]:
    result = llmc("run", engine, "--json", *arguments, stdin=stdin)
    assert result.status == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()]


def test_json_has_exactly_the_keys_that_are_promised(engine: Path) -> None:
    result = llmc("run", engine, "--prompt", PROMPTS[0], "--max-new-tokens", 5, "--json")
    assert (result.status, result.err) == (0, "")
    completion = json.loads(result.out)
    assert list(completion) == ["prompt", "prompt_ids", "text", "token_ids", "finish_reason"]
    assert completion["prompt"] == PROMPTS[0]
    assert len(completion["token_ids"]) == 5
    assert completion["finish_reason"] == "length"


def test_tokens_are_those_of_transformers(engine: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = MODELS / "gptneox-tiny"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = run(engine, *(part for text in PROMPTS for part in ("--prompt", text)), "--max-new-tokens", 16)
    for text, completion in zip(PROMPTS, found, strict=True):
        ids = tokenizer(text, return_tensors="pt")
        expected = model.generate(**ids, max_new_tokens=16, do_sample=False)[0, ids["input_ids"].shape[1] :].tolist()
        assert completion["prompt"] == text
        assert completion["prompt_ids"] == ids["input_ids"][0].tolist()
        assert completion["token_ids"] == expected
        assert text + completion["text"] == tokenizer.decode([*completion["prompt_ids"], *expected])


def test_batching_and_order_change_nothing(engine: Path) -> None:
    alone = {text: run(engine, "--prompt", text, "--max-new-tokens", 12)[0] for text in PROMPTS}
    for order in (PROMPTS, PROMPTS[::-1]):
        together = run(engine, *(part for text in order for part in ("--prompt", text)), "--max-new-tokens", 12)
        assert together == [alone[text] for text in order]


def test_the_interpreter_says_the_same(engine: Path) -> None:
    arguments = ("--prompt", PROMPTS[0], "--prompt", PROMPTS[1], "--max-new-tokens", 8)
    assert run(engine, *arguments, "--executor", "interpreter") == run(engine, *arguments)


def test_prompts_come_from_options_files_and_ids(engine: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one\r\ntwo\n")
    (tmp_path / "list.json").write_text('["three", {"prompt": "four"}]')
    (tmp_path / "lines.jsonl").write_text('"five"\n{"prompt": "six", "more": 1}\n')
    files = [part for name in ("lines.txt", "list.json", "lines.jsonl") for part in ("--prompt-file", tmp_path / name)]
    found = run(engine, "--prompt", "zero", *files, "--prompt-ids", "1, 2 3", "--max-new-tokens", 1)
    assert [c["prompt"] for c in found[:-1]] == ["zero", "one", "two", "three", "four", "five", "six"]
    assert found[-1]["prompt_ids"] == [1, 2, 3]


def test_prompts_come_from_standard_input(engine: Path) -> None:
    found = run(engine, "--prompt-file", "-", "--max-new-tokens", 1, stdin="eins\nzwölf")
    assert [completion["prompt"] for completion in found] == ["eins", "zwölf"]


def test_text_output_shows_prompts_and_what_follows(engine: Path) -> None:
    arguments = ("--prompt", PROMPTS[0], "--max-new-tokens", 4)
    [completion] = run(engine, *arguments)
    assert llmc("run", engine, *arguments).out == f"{PROMPTS[0]}{completion['text']}\n"
    several = llmc("run", engine, *arguments, "--prompt", "A").out
    assert several.startswith(f"--- 1 of 2 ---\n{PROMPTS[0]}{completion['text']}\n--- 2 of 2 ---\nA")


def test_an_end_token_stops_and_is_kept_among_the_ids(engine: Path, tmp_path: Path) -> None:
    [free] = run(engine, "--prompt", PROMPTS[0], "--max-new-tokens", 6)
    stop = free["token_ids"][2]
    ended = free["token_ids"][: free["token_ids"].index(stop) + 1]
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(MODELS / "gptneox-tiny", checkpoint)
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": stop}))
    llmc("compile", checkpoint, "-o", tmp_path / "engine", "--dtype", "float32", "-q")
    [completion] = run(tmp_path / "engine", "--prompt", PROMPTS[0], "--max-new-tokens", 6)
    assert (completion["token_ids"], completion["finish_reason"]) == (ended, "stop")
    [ignored] = run(tmp_path / "engine", "--prompt", PROMPTS[0], "--max-new-tokens", 6, "--ignore-eos")
    assert ignored == free


def test_with_a_metaspace_tokenizer_the_space_before_the_first_new_word_is_kept(metaspace_engine: Path) -> None:
    arguments = ("--max-new-tokens", 4, "--ignore-eos", "--no-special-tokens")
    [by_text, by_ids] = run(metaspace_engine, "--prompt", "the list", "--prompt-ids", "1,2", *arguments)
    assert by_text == by_ids
    assert (by_text["prompt"], by_text["prompt_ids"]) == ("the list", [1, 2])
    words = ["", "the", "list", *(f"w{i}" for i in range(3, 1023))]
    assert by_text["text"] == "".join(" " + words[i] for i in by_text["token_ids"])
    shown = llmc("run", metaspace_engine, "--prompt", "the list", *arguments).out
    assert shown == f"the list{by_text['text']}\n"


def test_an_end_token_that_the_tokenizer_puts_behind_prompts_is_noted_and_can_be_left_out(
    metaspace_engine: Path,
) -> None:
    arguments = ("run", metaspace_engine, "--prompt", "the list", "--prompt", "w7", "--max-new-tokens", 2, "--json")
    given = llmc(*arguments)
    assert [json.loads(line)["prompt_ids"] for line in given.out.splitlines()] == [[1, 2, 1023], [7, 1023]]
    [note] = given.err.splitlines()
    assert note.startswith("note: the tokenizer ends every prompt with '<end>'")
    assert "--no-special-tokens" in note
    plain = llmc(*arguments, "--no-special-tokens")
    assert [json.loads(line)["prompt_ids"] for line in plain.out.splitlines()] == [[1, 2], [7]]
    assert plain.err == ""


def test_new_tokens_beyond_the_engines_room_are_noted(engine: Path) -> None:
    result = llmc("run", engine, "--prompt-ids", ",".join(["5"] * 60), "--max-new-tokens", 10, "--json", "--ignore-eos")
    assert len(json.loads(result.out)["token_ids"]) == 4
    assert result.err == "note: prompt 1 gets at most 4 new tokens: the engine holds 64 tokens per sequence\n"


def test_stats_go_to_standard_error(engine: Path) -> None:
    result = llmc("run", engine, "--prompt", "A", "--max-new-tokens", 3, "--json", "--stats", "--threads", 1)
    assert len(result.out.splitlines()) == 1
    assert "tokens/s" in result.err
    assert "executor cpu" in result.err


def test_texts_in_caches_that_do_not_hold_all_make_room_for_each_other(engine: Path) -> None:
    given = [part for text in PROMPTS[:2] for part in ("--prompt", text)]
    given += ["--max-new-tokens", "58", "--ignore-eos", "--json"]
    result = llmc("run", engine, *given, "--cache-tokens", 64, "--stats")  # one block
    assert result.status == 0 and "preemption" not in result.err  # one comes after the other
    assert result.out == llmc("run", engine, *given).out == llmc("run", engine, *given, "--paged-cache").out


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--prompt", "a", "--cache-tokens", "0"], "the caches were to hold 0 tokens", "--cache-tokens"),
        (["--prompt", "", "--cache-tokens", "9"], "prompt 1 is empty", None),
        (["--prompt", ""], "prompt 1 is empty", None),
        (["--prompt", "a", "--prompt-ids", ""], "prompt 2 is empty", None),
        (["--prompt-ids", "1,x"], "--prompt-ids '1,x' holds something other than numbers", "1,2,3"),
        (["--prompt-ids", "1,1024"], "prompt 1 holds the token id 1024; the model's ids are 0 to 1023", None),
        (["--prompt-ids", "7" + ",7" * 64], "prompt 1 has 65 tokens; the engine takes at most 64", "--max-input 65"),
        (
            ["--prompt", "a", "--max-new-tokens", "0"],
            "--max-new-tokens is 0; it must be an integer of at least 1",
            None,
        ),
        (["--prompt", "a", "--device", "tpu"], "'tpu'", None),
        (["--prompt", "a", "--executor", "jax"], "there is no executor 'jax'", None),
        (["--prompt", "a", "--threads", "0"], "the number of threads is 0", None),
        (["--prompt-file", "missing.txt"], "cannot read the prompts in missing.txt: No such file", None),
    ],
)
def test_bad_requests(engine: Path, arguments: list[str], message: str, hint: str | None) -> None:
    llmc("run", engine, "--json", *arguments).failed(message, hint)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "one\n\nthree\n", "p.txt, line 2: the prompt is empty"),
        ("p.txt", "", "p.txt holds no prompts"),
        ("p.txt", b"\xff\xfe", "p.txt is not UTF-8 text"),
        ("p.json", '["a", ""]', "p.json, entry 2: the prompt is empty"),
        ("p.json", '{"prompt": "a"}', "p.json holds no list"),
        ("p.json", "[", "p.json: no JSON"),
        ("p.jsonl", '"a"\n\n"b"', "p.jsonl, line 2: the prompt is empty"),
        ("p.jsonl", '"a"\nb', "p.jsonl, line 2: no JSON"),
        ("p.jsonl", '{"text": "a"}', "p.jsonl, line 1: no prompt"),
    ],
)
def test_bad_prompt_files(engine: Path, tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    llmc("run", engine, "--prompt-file", tmp_path / name).failed(message)


def test_engines_that_do_not_match_are_refused(engine: Path, tmp_path: Path) -> None:
    def damaged(name: str, change: Any) -> Path:
        copy = tmp_path / name
        shutil.copytree(engine, copy)
        change(copy)
        return copy

    def flip(folder: Path) -> None:
        data = bytearray((folder / "rank0.safetensors").read_bytes())
        data[-1] ^= 1
        (folder / "rank0.safetensors").write_bytes(data)

    cases: dict[str, tuple[Any, str]] = {
        "flipped": (flip, "rank0.safetensors is damaged or was changed"),
        "without weights": (lambda folder: (folder / "rank0.safetensors").unlink(), "rank0.safetensors is missing"),
        "foreign": (lambda folder: (folder / "manifest.json").write_text('{"a": 1}'), "was not written by llmc"),
        "truncated": (lambda folder: (folder / "manifest.json").write_text('{"a": 1'), "is damaged: it is no JSON"),
    }
    for name, (change, message) in cases.items():
        llmc("run", damaged(name, change), "--prompt", "a").failed(message)
    arguments = ("--prompt", "a", "--max-new-tokens", 1, "--no-verify")
    assert llmc("run", tmp_path / "flipped", *arguments).status == 0
    llmc("run", MODELS / "gptneox-tiny", "--prompt", "a").failed("is a checkpoint, not an engine", "llmc compile")


def test_an_engine_of_an_older_format_says_what_to_do(engine: Path, tmp_path: Path) -> None:
    copy = tmp_path / "old"
    shutil.copytree(engine, copy)
    content = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**content, "schema": 1, "llmc": "0.0.9"}))
    message = "was written by llmc 0.0.9 in format 1, older than the format 2 that this llmc reads"
    for command in (("run", copy, "--prompt", "a"), ("inspect", copy), ("verify", copy)):
        llmc(*command).failed(message, "compile the engine again with this llmc")


def test_the_library_does_what_the_command_does(engine: Path) -> None:
    loaded = api.load(engine)
    [completion] = loaded.generate("The function", max_new_tokens=4)
    assert completion.to_json() == run(engine, "--prompt", "The function", "--max-new-tokens", 4)[0]
    logits = loaded.logits(completion.prompt_ids)
    assert logits.shape == (len(completion.prompt_ids), 1024)
    assert int(logits[-1].argmax()) == completion.token_ids[0]
    with pytest.raises(api.LlmcError, match="prompt 1 is a number"):
        loaded.generate([1, 2])  # type: ignore[list-item]
    with pytest.warns(UserWarning, match="prompt 1 gets at most 1 new tokens"):
        loaded.generate([[1] * 63], max_new_tokens=2)
