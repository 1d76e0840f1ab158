"""`llmc run --stream` and `--interactive`: texts that are shown while they come."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmc.cli.prompts import Prompt, TaskPrompt
    from runtime.generation.completion import Completion
    from runtime.generation.engine import Engine
    from runtime.generation.sampling_params import SamplingParams

Show = Callable[["Prompt", "str | None"], "Completion | None"]
"""Shows what a prompt of a task gets while it comes; returns the first of its completions, None if interrupted."""


def stream_prompts(prompts: Sequence[TaskPrompt], show: Show, *, numbered: bool) -> None:
    """Show the texts of prompts, one prompt after the other; `numbered`, those of several have headings."""
    for number, (prompt, task) in enumerate(prompts, 1):
        if numbered and len(prompts) > 1:
            print(f"--- {number} of {len(prompts)} ---")
        show(prompt, task)


def shown(
    engine: Engine, params: SamplingParams, *, add_special_tokens: bool, note: Callable[[str], None], with_prompt: bool
) -> Show:
    """What shows texts on standard output, with the prompt in front or without it."""

    def show(prompt: Prompt, task: str | None) -> Completion | None:
        first: Completion | None = None
        readable = engine.tokenizer is not None
        if with_prompt:
            print(prompt if isinstance(prompt, str) else " ".join(map(str, prompt)), end="" if readable else " |")
        for piece in engine.stream(prompt, params, task=task, add_special_tokens=add_special_tokens, note=note):
            if piece.completion is not None and first is None:
                first = piece.completion
            text = piece.text if readable else f" {piece.token_id}" if piece.token_id is not None else ""
            print(text, end="", flush=True)
        print(flush=True)
        return first

    return show


def shown_as_json(
    engine: Engine, params: SamplingParams, *, add_special_tokens: bool, note: Callable[[str], None]
) -> Show:
    """What shows texts as objects, one per line: each piece, and each completion at its end."""

    def show(prompt: Prompt, task: str | None) -> Completion | None:
        first: Completion | None = None
        for piece in engine.stream(prompt, params, task=task, add_special_tokens=add_special_tokens, note=note):
            if piece.completion is not None:
                first = first or piece.completion
                print(json.dumps(piece.completion.to_json()), flush=True)
            else:
                print(json.dumps({"piece": piece.text, "token_id": piece.token_id, "sample": piece.sample}), flush=True)
        return first

    return show


def converse(engine: Engine, show: Show, *, chat: bool, task: str | None) -> None:
    """Read prompts from the terminal, line by line, until its end (Ctrl-D). Ctrl-C ends a text, not the program.

    Lines can be edited, and earlier ones called back. With `chat`, they are messages of one conversation.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() then edits lines and keeps a history
    messages: list[dict[str, str]] = []
    for line in _lines(sys.stdin.isatty()):
        prompt = line
        if chat:
            from runtime.generation.chat import apply_chat_template

            messages.append({"role": "user", "content": line})
            prompt = apply_chat_template(engine.path, messages)
        try:
            completion = show(prompt, task)
        except KeyboardInterrupt:
            print(" (interrupted)", flush=True)
            completion = None
        if chat:
            messages.append({"role": "assistant", "content": completion.text if completion is not None else ""})


def _lines(on_terminal: bool) -> Iterator[str]:
    """The lines that a person types; empty ones are left out."""
    while True:
        try:
            line = input("> " if on_terminal else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            print(flush=True)
            continue
        if line.strip():
            yield line
