"""`llmc run --stream` and `--interactive`: texts that are shown while they come."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from compiler.errors import RequestError
from llmc.cli.failures import error_text

if TYPE_CHECKING:
    from llmc.cli.prompts import Prompt, TaskPrompt
    from llmc.cli.terminal import Terminal
    from runtime.generation.completion import Completion, Piece
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
    engine: Engine,
    params: SamplingParams,
    terminal: Terminal,
    *,
    add_special_tokens: bool,
    note: Callable[[str], None],
    with_prompt: bool,
) -> Show:
    """What shows texts on a terminal, with the prompt in front or without it."""
    readable = engine.tokenizer is not None

    def write(piece: Piece, fresh: bool) -> None:
        ids = [piece.token_id] if piece.token_id is not None else []
        if piece.completion is not None and fresh:  # of a beam search, whose texts come as a whole
            ids = piece.completion.token_ids
        terminal.write(piece.text if readable else "".join(f" {token}" for token in ids))

    def show(prompt: Prompt, task: str | None) -> Completion | None:
        begin = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
        begin = (begin if readable else f"{begin} |") if with_prompt else ""
        texts: dict[int, list[Piece]] = {}  # the first one is shown while it comes, the others after it
        for piece in engine.stream(prompt, params, task=task, add_special_tokens=add_special_tokens, note=note):
            text = texts.setdefault(piece.sample, [])
            if piece.sample == 0:
                terminal.write("" if text else _heading(params, 0) + begin)
                write(piece, fresh=not text)
            text.append(piece)
        for sample, text in sorted(texts.items()):
            terminal.write("\n" + _heading(params, sample) + begin if sample else "")
            for place, piece in enumerate(text if sample else ()):
                write(piece, fresh=place == 0)
        terminal.write("\n")
        return next((piece.completion for piece in texts.get(0, ()) if piece.completion is not None), None)

    return show


def _heading(params: SamplingParams, sample: int) -> str:
    """The line above a text of a prompt that has several."""
    count = params.n if params.num_beams == 1 else params.num_return_sequences
    return f"--- text {sample + 1} of {count} ---\n" if count > 1 else ""


def shown_as_json(
    engine: Engine, params: SamplingParams, terminal: Terminal, *, add_special_tokens: bool, note: Callable[[str], None]
) -> Show:
    """What shows texts as objects, one per line: each piece, and each completion at its end."""

    def show(prompt: Prompt, task: str | None) -> Completion | None:
        first: Completion | None = None
        for piece in engine.stream(prompt, params, task=task, add_special_tokens=add_special_tokens, note=note):
            if piece.completion is not None:
                first = first or piece.completion
                shown = piece.completion.to_json()
            else:
                shown = {"piece": piece.text, "token_id": piece.token_id, "sample": piece.sample}
            terminal.write(json.dumps(shown) + "\n")
        return first

    return show


def converse(engine: Engine, show: Show, terminal: Terminal, *, chat: bool, task: str | None) -> None:
    """Answer the lines that are entered, one after the other, until their end. Ctrl-C ends a text, not the program.

    With `chat`, they are messages of one conversation. What a person's request gets wrong is told, and the next line is
    read; in lines of a file it is raised.
    """
    messages: list[dict[str, str]] = []
    for line in terminal.lines():
        answer = ""
        try:
            prompt = _prompt_of(engine, [*messages, {"role": "user", "content": line}]) if chat else line
            completion = show(prompt, task)
            answer = completion.text if completion is not None else ""
        except KeyboardInterrupt:
            terminal.write(" (interrupted)\n")
        except RequestError as error:
            if not terminal.is_terminal:
                raise
            terminal.tell(error_text(error))
            continue
        if chat:
            messages += [{"role": "user", "content": line}, {"role": "assistant", "content": answer}]


def _prompt_of(engine: Engine, messages: list[dict[str, str]]) -> str:
    from runtime.generation.chat import apply_chat_template

    return apply_chat_template(engine.path, messages)
