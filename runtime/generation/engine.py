"""A loaded engine: text in, text out."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compiler.errors import RequestError
from compiler.ir.step import Step, all_positions
from runtime.engine_dir.engine_folder import EngineFolder
from runtime.engine_dir.manifest import Manifest, no_tokenizer
from runtime.executors.interface import Executor
from runtime.generation.generate import FinishReason, Generated, OnToken, Timings, generate
from runtime.generation.requests import check_prompt, check_requests
from runtime.generation.tokenizer import Tokenizer

Prompt = str | Sequence[int]


@dataclass(frozen=True)
class Completion:
    """What a prompt got.

    Attributes:
        prompt: the prompt's text, as it was given; of a prompt given as ids, their text without special tokens and
            without a character that they leave incomplete. Empty for ids if the engine has no tokenizer.
        prompt_ids: the prompt's token ids.
        text: how the prompt goes on: the text of the new tokens in the context of the prompt, without special tokens
            and without the end token that ended it. Empty if the engine has no tokenizer. `prompt + text` is the text
            of all ids, if the prompt was given as ids or is what the tokenizer makes of its own ids.
        token_ids: the new tokens; an end token that ended the text is the last of them.
        finish_reason: `stop` if an end token ended it, `length` if the number of tokens did.
    """

    prompt: str
    prompt_ids: list[int]
    text: str
    token_ids: list[int]
    finish_reason: FinishReason

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)


class Engine:
    """An engine, ready to generate. Made by `llmc.load`.

    Attributes:
        path: the engine directory.
        manifest: what the engine says about itself.
        executor: what runs the model.
        tokenizer: None if the checkpoint had none; prompts are token ids then.
        timings: where the time of the latest call of `generate` went.
    """

    def __init__(self, path: Path, manifest: Manifest, executor: Executor, tokenizer: Tokenizer | None) -> None:
        self.path, self.manifest = path, manifest
        self.executor, self.tokenizer = executor, tokenizer
        self.timings = Timings()

    @classmethod
    def over(cls, folder: EngineFolder, executor: Executor) -> Engine:
        """The engine in a folder, and what runs its files; EngineError if its tokenizer cannot be read."""
        name = folder.manifest.tokenizer
        return cls(folder.path, folder.manifest, executor, Tokenizer(folder.path / name) if name else None)

    def generate(
        self,
        prompts: str | Sequence[Prompt],
        *,
        max_new_tokens: int = 64,
        ignore_eos: bool = False,
        add_special_tokens: bool = True,
        on_token: OnToken | None = None,
        note: Callable[[str], None] | None = None,
    ) -> list[Completion]:
        """Extend prompts greedily. However many there are, at most the engine's `max_batch` run at once.

        Args:
            prompts: a text, or a list of texts and lists of token ids.
            max_new_tokens: how many tokens to add to each at most.
            ignore_eos: whether to go on after an end token.
            add_special_tokens: whether prompts given as text get the tokens that the tokenizer puts around a text.
            on_token: called with the number of the prompt, from 0, and each new token.
            note: called with a sentence where a prompt gets fewer tokens than asked for, or where the tokenizer ends
                every prompt with a special token; a warning if None.

        Returns:
            A completion for each prompt, in the order given.

        Raises:
            RequestError: naming the prompt, if one is empty, too long, or not of this model; before anything runs.
        """
        given = [prompts] if isinstance(prompts, str) else list(prompts)
        tell = note or warnings.warn
        ids = [
            self.encode(prompt, number, add_special_tokens=add_special_tokens) for number, prompt in enumerate(given, 1)
        ]
        if add_special_tokens:
            self._note_appended(given, tell)
        requests = check_requests(
            ids,
            max_new_tokens,
            limits=self.manifest.limits,
            vocab_size=self.manifest.vocab_size,
            note=tell,
            facts=self.manifest.model,
        )
        results, self.timings = generate(
            self.executor,
            requests,
            batch=self.manifest.limits.max_batch,
            stop_ids=frozenset() if ignore_eos else frozenset(self.manifest.tokens.eos),
            on_token=on_token,
        )
        return [self._completion(*parts) for parts in zip(given, ids, results, strict=True)]

    @torch.inference_mode()
    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """The logits after each of the tokens, `[tokens, vocabulary]`, computed in one step.

        Raises:
            RequestError: if there are none, more than the engine takes, or one is not the model's.
        """
        check_prompt(1, token_ids, self.manifest.limits, self.manifest.vocab_size, self.manifest.model)
        step = Step.of_prompts([token_ids])
        session = self.executor.open(1, step.length)
        return session.step(step.wanting(all_positions(1, step.length)))[0].clone()

    def encode(self, prompt: Prompt, number: int = 1, *, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a prompt.

        Args:
            prompt: a text, or token ids.
            number: what messages call the prompt.
            add_special_tokens: as of `generate`.

        Raises:
            RequestError: if it is empty or no prompt, or a text that the engine has no tokenizer for.
        """
        if isinstance(prompt, int):
            raise RequestError(
                f"prompt {number} is a number", hint="give a list of prompts: [[1, 2, 3]], not [1, 2, 3]"
            )
        if not isinstance(prompt, str):
            return self._plain_ids(number, prompt)
        if not prompt:
            raise RequestError(f"prompt {number} is empty", hint="give it at least one character")
        if self.tokenizer is None:
            reason, mend = no_tokenizer(self.manifest)
            raise RequestError(
                f"prompt {number} is text, but the engine has no tokenizer{reason}",
                hint=f"{mend}; or give token ids (--prompt-ids 1,2,3)",
            )
        return self.tokenizer.encode(prompt, add_special_tokens=add_special_tokens)

    def _note_appended(self, prompts: Sequence[Prompt], note: Callable[[str], None]) -> None:
        text = next((prompt for prompt in prompts if isinstance(prompt, str)), None)
        if text is None or self.tokenizer is None or (token := self.tokenizer.appended(text)) is None:
            return
        note(
            f"the tokenizer ends every prompt with {token!r}, after which a model takes the text for finished: "
            "--no-special-tokens (add_special_tokens=False) leaves it out"
        )

    @staticmethod
    def _plain_ids(number: int, prompt: Sequence[int]) -> list[int]:
        try:
            return [operator.index(token) for token in prompt]  # numpy's integers, too
        except TypeError:
            raise RequestError(f"prompt {number} is neither text nor a list of token ids") from None

    def _completion(self, prompt: Prompt, prompt_ids: list[int], result: Generated) -> Completion:
        # The tokenizer need not know that a token ends a text: it may be a line end, say.
        shown = result.token_ids[:-1] if result.finish_reason == "stop" else result.token_ids
        head, text = self.tokenizer.continuation(prompt_ids, shown) if self.tokenizer else ("", "")
        given = prompt if isinstance(prompt, str) else head
        return Completion(given, prompt_ids, text, result.token_ids, result.finish_reason)
