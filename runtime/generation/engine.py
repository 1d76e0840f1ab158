"""A loaded engine: text in, text out."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from collections.abc import Sequence as ListOf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compiler.errors import RequestError
from compiler.ir.step import Step, all_positions
from runtime.engine_dir.engine_folder import EngineFolder
from runtime.engine_dir.manifest import Manifest, no_tokenizer
from runtime.executors.interface import Executor
from runtime.generation.async_batch import AsyncBatch
from runtime.generation.completion import Completion, Piece, completions
from runtime.generation.generation_config import generation_defaults
from runtime.generation.groups import GroupMaker
from runtime.generation.in_flight import InFlightBatch, Update
from runtime.generation.open_steps import open_steps
from runtime.generation.requests import check_prompt, plain_ids, prompt_list
from runtime.generation.sampling_checks import whole
from runtime.generation.sampling_params import SamplingParams
from runtime.generation.sequence import SequenceGroup
from runtime.generation.session_steps import SessionSteps
from runtime.generation.timings import Timings
from runtime.generation.tokenizer import Tokenizer

Prompt = str | ListOf[int]
Params = SamplingParams | Mapping[str, Any] | None
"""The parameters of a request: all of them, or those that differ from the engine's defaults; None for the defaults."""

_PARAMS = "SamplingParams or a mapping of them"

OnToken = Callable[[int, int], None]
"""Called with the number of the request, from 0, and its new token."""
Note = Callable[[str], None]


class Engine:
    """An engine, ready to generate. Made by `llmc.load`.

    Attributes:
        path: the engine directory.
        manifest: what the engine says about itself.
        executor: what runs the model.
        tokenizer: None if the checkpoint had none; prompts are token ids then.
        cache_tokens: how many tokens paged caches hold; None for those of all sequences that may run at once.
        defaults: the parameters of requests that say nothing else: those of the checkpoint's `generation_config.json`.
        timings: where the time of the latest call of `generate` went; those of `step` since the batch was empty.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        executor: Executor,
        tokenizer: Tokenizer | None,
        *,
        cache_tokens: int | None = None,
    ) -> None:
        self.path, self.manifest = path, manifest
        self.executor, self.tokenizer, self.cache_tokens = executor, tokenizer, cache_tokens
        self.defaults = generation_defaults(manifest.generation).params
        self.timings = Timings()
        self._batch: InFlightBatch | None = None
        self._submitted = 0
        self._async = AsyncBatch(self)
        self._lock = threading.Lock()  # of what `submit`, `step` and `cancel` change, which threads may call at once

    @classmethod
    def over(cls, folder: EngineFolder, executor: Executor, *, cache_tokens: int | None = None) -> Engine:
        """The engine in a folder, and what runs its files; EngineError if its tokenizer cannot be read."""
        name = folder.manifest.tokenizer
        tokenizer = Tokenizer(folder.path / name) if name else None
        return cls(folder.path, folder.manifest, executor, tokenizer, cache_tokens=cache_tokens)

    def generate(
        self,
        prompts: str | ListOf[Prompt],
        params: Params | ListOf[Params] = None,
        *,
        task: str | ListOf[str | None] | None = None,
        add_special_tokens: bool = True,
        on_token: OnToken | None = None,
        on_update: Callable[[Update], None] | None = None,
        note: Note | None = None,
        **changes: Any,
    ) -> list[Completion]:
        """Extend prompts. However many there are, at most the engine's `max_batch` sequences run at once.

        Args:
            prompts: a text, or a list of texts and lists of token ids.
            params: the parameters of all requests, or a list with those of each: `SamplingParams`, or a mapping of
                those that differ from the engine's `defaults`.
            task: the task whose virtual tokens stand before all prompts, or a list with that of each; None for none.
                The manifest lists the engine's tasks.
            add_special_tokens: whether prompts given as text get the tokens that the tokenizer puts around a text.
            on_token: called with the number of the prompt, from 0, and each new token.
            on_update: called with all that each step brings.
            note: called with a sentence where a prompt gets fewer tokens than asked for, where a parameter has no
                effect, or where the tokenizer ends every prompt with a special token; a warning if None.
            **changes: parameters of all requests, such as `max_new_tokens=32` or `temperature=0.7`.

        Returns:
            The completions of each prompt, in the order given: one, or as many as its parameters ask for.

        Raises:
            RequestError: naming the prompt, if one is empty, too long, or not of this model, or its parameters cannot
                be; before anything runs. Also if a request fails while others go on to their ends: the error has what
                all of them got as `completions`.
        """
        given: list[Prompt] = prompt_list(prompts)
        tell = note or warnings.warn
        wishes = self._params_of_each(params, len(given), changes)
        tasks = _task_of_each(task, len(given))
        maker = self._maker(add_special_tokens, tell)
        ids = [maker.encode(prompt, number) for number, prompt in enumerate(given, 1)]
        if add_special_tokens:
            self._note_appended(given, tell)
        groups = [
            maker.make(number, prompt, wish, ids=known, task=of_task)
            for number, (prompt, wish, known, of_task) in enumerate(zip(given, wishes, ids, tasks, strict=True))
        ]
        self.timings = Timings()
        if groups:
            self._run(groups, on_token, on_update)
        result = [each for group in groups for each in completions(group, self.tokenizer)]
        if failed := next((group.error for group in groups if group.error), None):
            failed.completions = result  # type: ignore[attr-defined]
            raise failed
        return result

    def stream(
        self,
        prompt: Prompt,
        params: Params = None,
        *,
        task: str | None = None,
        add_special_tokens: bool = True,
        note: Note | None = None,
        **changes: Any,
    ) -> Iterator[Piece]:
        """Extend a prompt, and give its text as it comes.

        The arguments and errors are those of `generate`; what is wrong with the prompt or its parameters is raised by
        the call itself. The text of a beam search comes as a whole, at its end.
        """
        (wish,) = self._params_of_each(params, 1, changes)
        tell = note or warnings.warn
        group = self._maker(add_special_tokens, tell).make(0, prompt, wish, task=task)
        if add_special_tokens:
            self._note_appended([prompt], tell)
        return self._pieces(group)

    def _pieces(self, group: SequenceGroup) -> Iterator[Piece]:
        """The stream of a request that runs alone."""
        batch = self._open([group])
        self.timings = batch.timings
        while not batch.scheduler.is_idle:
            for update in batch.step():
                if piece := _piece(update):
                    yield piece
        yield from self._last_pieces(group)

    async def astream(
        self,
        prompt: Prompt,
        params: Params = None,
        *,
        task: str | None = None,
        add_special_tokens: bool = True,
        note: Note | None = None,
        **changes: Any,
    ) -> AsyncGenerator[Piece]:
        """As `stream`, for `async for`. Requests that run at once share the engine's steps."""
        options: Any = {"task": task, "add_special_tokens": add_special_tokens, "note": note, **changes}
        group = await self._async.submit(lambda: self.submit(prompt, params, **options))
        async with contextlib.aclosing(self._async.updates(group)) as updates:
            async for update in updates:
                if piece := _piece(update):
                    yield piece
        for piece in self._last_pieces(group):
            yield piece

    async def agenerate(
        self,
        prompt: Prompt,
        params: Params = None,
        *,
        task: str | None = None,
        add_special_tokens: bool = True,
        note: Note | None = None,
        **changes: Any,
    ) -> list[Completion]:
        """The completions of a prompt, awaited. The arguments and errors are those of `stream`."""
        options: Any = {"task": task, "add_special_tokens": add_special_tokens, "note": note, **changes}
        pieces = [piece async for piece in self.astream(prompt, params, **options)]
        return [piece.completion for piece in pieces if piece.completion is not None]

    def submit(
        self,
        prompt: Prompt,
        params: Params = None,
        *,
        priority: int = 0,
        task: str | None = None,
        add_special_tokens: bool = True,
        note: Note | None = None,
        **changes: Any,
    ) -> SequenceGroup:
        """Take up a request, which `step` computes beside all others.

        Args:
            prompt: as of `generate`, as are the others.
            params: the request's parameters.
            priority: requests with a higher one come first, and may take the place of others, which go on later.
            task: the task whose virtual tokens stand before the prompt; None for none.
            add_special_tokens: as of `generate`.
            note: as of `generate`.
            **changes: as of `generate`.

        Returns:
            The request: what `step` names, `cancel` takes and `completions` is asked for.

        Raises:
            RequestError: as of `generate`; nothing is disturbed.
        """
        (wish,) = self._params_of_each(params, 1, changes)
        maker = self._maker(add_special_tokens, note or warnings.warn)
        priority = whole()("priority", priority)
        with self._lock:
            group = maker.make(self._submitted, prompt, wish, priority, task=task)
            if self._batch is None:
                self._batch = InFlightBatch.over(self._open_steps())
            self._batch.scheduler.add(group)
            self._submitted += 1
        return group

    def step(self) -> list[Update]:
        """Compute one step of the requests that were submitted; returns what it brought, nothing if there are none."""
        with self._lock:
            if self._batch is None:
                return []
            self.timings = self._batch.timings
            return self._batch.step()

    def warm_up(self, done: Callable[[int, int], None] | None = None) -> None:
        """Do now what the first steps of each size would take long for, so that no request waits for it.

        On a GPU, the executor `cuda` compiles its kernels and captures steps for all numbers of sequences and lengths
        that the engine takes, which takes some seconds; what was compiled is kept on disk. Others have nothing to do.

        Args:
            done: called with how many sizes of steps are ready, and of how many.

        Raises:
            RequestError: if submitted requests are in progress, or the memory does not suffice.
        """
        limits = self.manifest.limits
        with self._lock:
            if not self.is_idle:
                raise RequestError("requests are in progress", hint="warm up before the first one is submitted")
            steps = self._open_steps() if self._batch is None else self._batch.steps
            steps.warm_up(limits.max_batch, limits.max_seq, done or (lambda ready, of: None))

    def _open_steps(self) -> SessionSteps:
        """A session for all sequences that may run at once."""
        limits = self.manifest.limits
        return open_steps(self.executor, limits.max_batch, limits.max_seq, self.cache_tokens, spare=True)

    @property
    def is_idle(self) -> bool:
        """Whether no submitted request is in progress."""
        return self._batch is None or self._batch.scheduler.is_idle

    def cancel(self, request: SequenceGroup) -> None:
        """Take a submitted request out; it keeps what it has got. Nothing happens if it has ended.

        Raises:
            RequestError: if it goes on, but was not submitted to this engine, or is no request.
        """
        if not isinstance(request, SequenceGroup):
            raise RequestError(f"{request!r:.80} is no request", hint="cancel what `submit` gave")
        with self._lock:
            if not request.sequences:
                return
            if self._batch is None or not self._batch.holds(request):
                raise RequestError(
                    f"request {request.number + 1} is none of those that were submitted to this engine",
                    hint="cancel what `submit` of the same engine gave; what `generate` runs cannot be cancelled",
                )
            self._batch.cancel(request)

    def completions(self, request: SequenceGroup) -> list[Completion]:
        """What a submitted request got: those of its texts that have ended."""
        return list(completions(request, self.tokenizer))

    @torch.inference_mode()
    def logits(self, token_ids: ListOf[int], task: str | None = None) -> Tensor:
        """The logits after each of the tokens, `[tokens, vocabulary]`, computed in one step.

        Args:
            token_ids: the tokens.
            task: the task whose virtual tokens stand before them; None for none.

        Raises:
            RequestError: if there are none, more than the engine takes, or one is not the model's.
        """
        of_task = self.manifest.task(task)
        check_prompt(1, token_ids, self.manifest.limits, self.manifest.vocab_size, self.manifest.model, task=of_task)
        virtual = of_task.ids if of_task is not None else []
        step = Step.of_prompts([[*virtual, *token_ids]])
        session = self.executor.open(1, step.length)
        wanted = all_positions(1, step.length)[:, len(virtual) :]
        return session.step(step.wanting(wanted))[0].clone()

    def encode(self, prompt: Prompt, number: int = 1, *, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a prompt.

        Args:
            prompt: a text, or token ids.
            number: what messages call the prompt.
            add_special_tokens: as of `generate`.

        Raises:
            RequestError: if it is empty or no prompt, or a text that the engine has no tokenizer for.
        """
        if not isinstance(prompt, str):
            return plain_ids(number, prompt)
        if not prompt:
            raise RequestError(f"prompt {number} is empty", hint="give it at least one character")
        if self.tokenizer is None:
            reason, mend = no_tokenizer(self.manifest)
            raise RequestError(
                f"prompt {number} is text, but the engine has no tokenizer{reason}",
                hint=f"{mend}; or give token ids (--prompt-ids 1,2,3)",
            )
        return self.tokenizer.encode(prompt, add_special_tokens=add_special_tokens)

    def _last_pieces(self, group: SequenceGroup) -> Iterator[Piece]:
        """The end of a request's stream: its completions, with the texts of a beam search. Raises its error."""
        if group.error is not None:
            raise group.error
        for completion in completions(group, self.tokenizer):
            whole = completion.text if group.beams is not None else ""
            yield Piece(whole, None, completion.sample or 0, completion)

    def _params_of_each(
        self, params: Params | ListOf[Params], count: int, changes: Mapping[str, Any]
    ) -> list[SamplingParams]:
        """The parameters of each of `count` requests."""
        if params is None or isinstance(params, SamplingParams | Mapping):
            return [self._complete(params, changes)] * count
        if isinstance(params, str | bytes) or not isinstance(params, ListOf):
            raise RequestError(f"params is {params!r:.80}", hint=f"give {_PARAMS} for all prompts, or one for each")
        if len(params) != count:
            raise RequestError(
                f"there are {count} prompts, but params is {len(params)}",
                hint="give one for all prompts, or one for each",
            )
        return [self._complete(each, changes) for each in params]

    def _complete(self, params: Params, changes: Mapping[str, Any]) -> SamplingParams:
        if params is not None and not isinstance(params, SamplingParams | Mapping):
            raise RequestError(f"the parameters of a request are {params!r:.80}", hint=f"give {_PARAMS}, or None")
        given = (
            params if isinstance(params, SamplingParams) else SamplingParams.from_mapping(params or {}, self.defaults)
        )
        return given.changed(**changes) if changes else given

    def _maker(self, add_special_tokens: bool, note: Note) -> GroupMaker:
        def encode(prompt: Prompt, number: int) -> list[int]:
            return self.encode(prompt, number, add_special_tokens=add_special_tokens)

        said = set(self.defaults.notes)

        def note_once(text: str) -> None:
            if text not in said:
                said.add(text)
                note(text)

        return GroupMaker(self.manifest, self.tokenizer, encode, note_once)

    def _run(
        self, groups: ListOf[SequenceGroup], on_token: OnToken | None, on_update: Callable[[Update], None] | None
    ) -> None:
        batch = self._open(groups)
        self.timings = batch.timings
        while not batch.scheduler.is_idle:
            for update in batch.step():
                if on_token is not None and update.token_id is not None:
                    on_token(update.group.number, update.token_id)
                if on_update is not None:
                    on_update(update)

    def _open(self, groups: ListOf[SequenceGroup]) -> InFlightBatch:
        """A session that is large enough for some requests, and a batch over it that has them."""
        rows = min(self.manifest.limits.max_batch, sum(group.width for group in groups))
        longest = max(len(group.model_prompt) + group.context.max_new_tokens for group in groups)
        batch = InFlightBatch.over(open_steps(self.executor, rows, longest, self.cache_tokens))
        for group in groups:
            batch.scheduler.add(group)
        return batch

    def _note_appended(self, prompts: ListOf[Prompt], note: Note) -> None:
        text = next((prompt for prompt in prompts if isinstance(prompt, str)), None)
        if text is None or self.tokenizer is None or (token := self.tokenizer.appended(text)) is None:
            return
        note(
            f"the tokenizer ends every prompt with {token!r}, after which a model takes the text for finished: "
            "--no-special-tokens (add_special_tokens=False) leaves it out"
        )


def _task_of_each(task: str | ListOf[str | None] | None, count: int) -> list[str | None]:
    """The names of the tasks of `count` prompts."""
    if task is None or isinstance(task, str):
        return [task] * count
    given = f"a list of {len(task)}" if isinstance(task, ListOf) else repr(task)
    if not isinstance(task, ListOf) or len(task) != count:
        raise RequestError(
            f"there are {count} prompts, but task is {given}", hint="give one name for all, or one for each"
        )
    return list(task)


def _piece(update: Update) -> Piece | None:
    """What an update brings of a text; None if nothing."""
    if update.sequence is None or (not update.text and update.token_id is None):
        return None
    return Piece(update.text, update.token_id, update.sequence.number)
