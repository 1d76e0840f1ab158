"""Where prompts come from: options, files, standard input."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from compiler.errors import RequestError
from compiler.text_files import decode_text, read_text
from runtime.processes.streams import standard_input

Prompt = str | list[int]


class TaskPrompt(NamedTuple):
    """A prompt, and the name of the task that its file gives it; None if there is none."""

    prompt: Prompt
    task: str | None = None


def gather_prompts(
    texts: Sequence[str], files: Sequence[str], ids: Sequence[str], read: Callable[[], bytes] = standard_input
) -> list[Prompt]:
    """The prompts of `--prompt`, then those of `--prompt-file`, then those of `--prompt-ids`.

    Args:
        texts: prompts.
        files: files of prompts; `-` for standard input.
        ids: prompts as token ids.
        read: gives all of standard input.

    Raises:
        RequestError: if a file cannot be read, or one of its lines is no prompt, naming it.
    """
    return [each.prompt for each in gather_requests(texts, files, ids, read)]


def gather_requests(
    texts: Sequence[str], files: Sequence[str], ids: Sequence[str], read: Callable[[], bytes] = standard_input
) -> list[TaskPrompt]:
    """As `gather_prompts`, with the tasks that files name under `task`."""
    prompts = [TaskPrompt(text) for text in texts]
    for file in files:
        prompts += _from_file(file, read)
    prompts += [TaskPrompt(_ids(text)) for text in ids]
    return prompts


def _ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise RequestError(f"--prompt-ids {text!r} holds something other than numbers", hint="write 1,2,3") from None


def _from_file(file: str, read: Callable[[], bytes]) -> list[TaskPrompt]:
    name = "standard input" if file == "-" else file
    if file == "-":
        text = decode_text(read(), name, RequestError).text
    else:
        text = read_text(file, RequestError, what="the prompts in").text
    if file.endswith(".json"):
        prompts = _json_list(name, text)
    elif file.endswith(".jsonl"):
        prompts = [
            _prompt(_parsed(line, f"{name}, line {number}"), f"{name}, line {number}")
            for number, line in enumerate(_lines(text), 1)
        ]
    else:
        prompts = [TaskPrompt(line) for line in _lines(text)]
    if not prompts:
        raise RequestError(f"{name} holds no prompts", hint="write a prompt a line, or a list of them in JSON")
    for number, (prompt, _) in enumerate(prompts, 1):
        if isinstance(prompt, str) and not prompt.strip():
            where = "entry" if file.endswith(".json") else "line"
            raise RequestError(f"{name}, {where} {number}: the prompt is empty", hint=f"remove the {where}, or fill it")
    return prompts


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


def _json_list(name: str, text: str) -> list[TaskPrompt]:
    content = _parsed(text, name)
    if not isinstance(content, list):
        raise RequestError(f"{name} holds no list", hint='write ["a prompt", "another"]')
    return [_prompt(value, f"{name}, entry {number}") for number, value in enumerate(content, 1)]


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text) if text.strip() else ""
    except ValueError as error:
        raise RequestError(
            f"{where}: no JSON ({error})", hint="mend it, or give a file of lines: one whose name ends otherwise"
        ) from None


def _prompt(value: Any, where: str) -> TaskPrompt:
    """A string, or the string under `prompt` of an object, whose task may stand under `task`."""
    text, task = (value.get("prompt"), value.get("task")) if isinstance(value, dict) else (value, None)
    if not isinstance(text, str):
        raise RequestError(f"{where}: no prompt", hint='write a string, or an object with "prompt"')
    if not isinstance(task, str | None):
        raise RequestError(f"{where}: the task is {task!r}", hint="write the name of a task, or leave it out")
    return TaskPrompt(text, task)
