"""Requests, checked and made ready before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as ListOf
from dataclasses import dataclass

from compiler.errors import RequestError
from runtime.engine_dir.manifest import Manifest, no_tokenizer
from runtime.generation.bad_words import bad_word_ids
from runtime.generation.beam_search import BeamSearch
from runtime.generation.logits_rules.request import RuleContext
from runtime.generation.requests import check_request
from runtime.generation.sampler import SampledSequence
from runtime.generation.sampling_params import SamplingParams
from runtime.generation.sequence import Sequence, SequenceGroup
from runtime.generation.text_stream import TextStream
from runtime.generation.tokenizer import Tokenizer

Encode = Callable[[str | ListOf[int], int], list[int]]
"""Gives the token ids of a prompt, which messages call by a number from 1."""


@dataclass(frozen=True)
class GroupMaker:
    """Makes the sequences of requests.

    Attributes:
        manifest: the engine's limits, end tokens and vocabulary.
        tokenizer: the engine's; None if it has none.
        encode: gives the token ids of a prompt.
        note: called with a sentence where a prompt gets fewer tokens than asked for, or a parameter has no effect.
    """

    manifest: Manifest
    tokenizer: Tokenizer | None
    encode: Encode
    note: Callable[[str], None]

    def make(
        self,
        number: int,
        prompt: str | ListOf[int],
        params: SamplingParams,
        priority: int = 0,
        ids: list[int] | None = None,
        task: str | None = None,
    ) -> SequenceGroup:
        """A request, ready to run.

        Args:
            number: the number of the request, from 0.
            prompt: a text, or token ids.
            params: what it wishes.
            priority: see `SequenceGroup`.
            ids: the prompt's token ids, if they are known already.
            task: the name of the task whose virtual tokens stand before the prompt; None for none.

        Raises:
            RequestError: naming the prompt, if the engine cannot serve the request.
        """
        of_task = self.manifest.task(task)
        ids = self.encode(prompt, number + 1) if ids is None else ids
        wanted = params.new_tokens_at_most(len(ids))
        if wanted < 1:
            raise RequestError(
                f"max_length is {params.max_length}, and prompt {number + 1} has {len(ids)} tokens already",
                hint="max_length counts the prompt's tokens, too: raise it, or give max_new_tokens",
            )
        limits = self.manifest.limits
        checked = check_request(
            number + 1, ids, wanted, limits, self.manifest.vocab_size, self.note, self.manifest.model, of_task
        )
        context = RuleContext(
            len(ids),
            checked.max_new_tokens,
            self.manifest.tokens.eos,
            self.manifest.vocab_size,
            self._bad_words(params),
        )
        group = SequenceGroup(number, prompt, ids, params, context, of_task, priority)
        for text in params.notes:
            self.note(text)
        if (least := params.new_tokens_at_least(len(ids))) > checked.max_new_tokens:
            self.note(
                f"prompt {number + 1} cannot get the {least} new tokens that min_new_tokens or min_length asks for: "
                f"it gets {checked.max_new_tokens} at most"
            )
        self._check_width(group)
        self._require_texts(params)
        if params.num_beams > 1:
            group.beams = BeamSearch(params, context, ids, self._ends(group) if params.stop else None)
            group.sequences = [
                Sequence(group, beam, list(group.model_prompt)) for beam in range(len(group.beams.token_ids))
            ]
            return group
        params = params if params.greedy else params.seeded()
        for sample in range(params.n):
            sampled = SampledSequence(params, context, ids, sample)
            stream = TextStream(self.tokenizer, ids, params.stop) if self.tokenizer is not None else None
            group.sequences.append(Sequence(group, sample, list(group.model_prompt), sampled, stream))
        return group

    def _check_width(self, group: SequenceGroup) -> None:
        most = self.manifest.limits.max_batch
        if group.width > most:
            name = "num_beams" if group.params.num_beams > 1 else "n"
            raise RequestError(
                f"prompt {group.number + 1} asks for {name}={group.width}; the engine runs at most {most} sequences",
                hint=f"ask for {most} or fewer, or compile with --max-batch {group.width}",
            )

    def _require_texts(self, params: SamplingParams) -> None:
        for name in ("stop", "bad_words"):
            if getattr(params, name) and self.tokenizer is None:
                reason, mend = no_tokenizer(self.manifest)
                raise RequestError(
                    f"{name} holds texts, but the engine has no tokenizer{reason}",
                    hint=f"{mend}; or give token ids ({'stop_token_ids' if name == 'stop' else 'bad_words_ids'})",
                )

    def _bad_words(self, params: SamplingParams) -> list[tuple[int, ...]]:
        tokenizer = self.tokenizer
        if not params.bad_words or tokenizer is None:
            return []
        return bad_word_ids(params.bad_words, lambda text: tokenizer.encode(text, add_special_tokens=False))

    def _ends(self, group: SequenceGroup) -> Callable[[ListOf[int]], bool]:
        """Whether the text of some new tokens holds a stop string."""
        tokenizer = self.tokenizer

        def ends(token_ids: ListOf[int]) -> bool:
            assert tokenizer is not None
            text = tokenizer.continuation(group.prompt_ids, token_ids)[1]
            return any(stop in text for stop in group.params.stop)

        return ends
