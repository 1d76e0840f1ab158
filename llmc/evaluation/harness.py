"""Engines as models of lm-evaluation-harness (`lm_eval`), under the name `llmc`.

Importing this module registers the class; it needs `llmc[eval]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from compiler.errors import RequestError
from compiler.suggest import did_you_mean
from llmc.evaluation.continuations import Continuation, ContinuationScore, score_continuations
from runtime.engine_dir.manifest import no_tokenizer
from runtime.generation.chat import apply_chat_template, chat_template_text, special_token
from runtime.generation.engine import Engine
from runtime.generation.in_flight import Update
from runtime.generation.sampling_params import SamplingParams
from runtime.load.loading import load_engine

MAX_GEN_TOKS = 256
"""How many tokens a generation has at most where its task says nothing."""

# So many batches are generated in one go: within them, a prompt takes the place of one that has ended.
_BATCHES_AT_ONCE = 16
_FIELDS = frozenset(field.name for field in fields(SamplingParams))


@register_model("llmc")
class LlmcLM(TemplateLM):  # type: ignore[misc]
    """An engine, as `lm_eval --model llmc --model_args engine=DIR` and `llmc eval harness` run it.

    Args:
        engine: the engine directory; or an engine that is loaded, on one rank or several.
        executor: as of `llmc.load`, as are `device`, `threads` and `verify`.
        device: as above.
        threads: as above.
        batch_size: how many requests run at once; `auto` for as many as the engine takes.
        max_batch_size: how many `auto` takes at most.
        max_length: how many tokens a request has at most; as many as the engine takes if None.
        max_gen_toks: how many tokens a generation has at most where its task says nothing.
        add_bos_token: whether texts get the tokens that the tokenizer puts around them; None for what `lm_eval` wants
            of each.
        prefix_token_id: the token before a text that has nothing before it; the tokenizer's start token if None, or
            its end token if it has none.
        verify: whether to compare the digest of every file.

    Raises:
        RequestError: if the engine has no tokenizer, or a size cannot be.
        LlmcError: as of `llmc.load`.
    """

    def __init__(
        self,
        engine: str | Path | Engine,
        *,
        executor: str = "auto",
        device: str | None = None,
        threads: int | None = None,
        batch_size: int | str | None = "auto",
        max_batch_size: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = MAX_GEN_TOKS,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        verify: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(engine, Engine):
            engine = load_engine(
                engine, executor=executor, device=device or "auto", threads=threads, verify=verify,
                batch=batch_size if isinstance(batch_size, int) else None,
            )  # fmt: skip
        if engine.tokenizer is None:
            reason, mend = no_tokenizer(engine.manifest)
            raise RequestError(f"{engine.path} has no tokenizer{reason}, so it cannot read tasks", hint=mend)
        self.engine, self.tokenizer, self._device = engine, engine.tokenizer, device
        limits = engine.manifest.limits
        self.batch_size = _batch(batch_size, max_batch_size, limits.max_batch)
        self.max_length = _length(max_length, min(limits.max_input, limits.max_seq))
        self.max_gen_toks, self.add_bos_token = max_gen_toks, add_bos_token
        tokens = engine.manifest.tokens
        end = self._special("eos_token", tokens.eos[0] if tokens.eos else None)
        start = self._special("bos_token", None if (engine.path / "tokenizer_config.json").is_file() else tokens.bos)
        self._end_id = end
        self._prefix_id = next((each for each in (prefix_token_id, start, end) if each is not None), None)
        self._prefix = "" if self._prefix_id is None else self.tokenizer.decode([self._prefix_id], special=True)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> LlmcLM:
        """An engine from `--model_args`, which win over the options of `lm_eval` itself, such as `--batch_size`.

        Its `--device` is `cuda:0` if nothing is said, which here means a GPU if there is one.
        """
        given = {key: value for key, value in (additional_config or {}).items() if value is not None} | dict(arg_dict)
        if "device" not in arg_dict and not torch.cuda.is_available():
            given.pop("device", None)
        known = tuple(cls.__init__.__kwdefaults__ or ())
        for name in given:
            if name not in (*known, "engine"):
                raise RequestError(
                    f"there is no model argument {name!r}{did_you_mean(name, (*known, 'engine'))}",
                    hint=f"the arguments are engine, {', '.join(known)}",
                )
        if "engine" not in given:
            raise RequestError("the model arguments name no engine", hint="--model_args engine=DIR")
        return cls(**given)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Mapping[str, Any] | None = None) -> LlmcLM:
        """See `create_from_arg_obj`; the arguments are written `engine=DIR,batch_size=8`."""
        from lm_eval.utils import simple_parse_args_string

        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text; RequestError if neither tokenizer nor checkpoint names one."""
        if self._end_id is None:
            raise RequestError(f"{self.engine.path} names no end token", hint="give prefix_token_id=ID")
        return self._end_id

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that has nothing before it."""
        return self.eot_token_id if self._prefix_id is None else self._prefix_id

    @property
    def tokenizer_name(self) -> str:
        """What tells the tokenizer from others in caches of requests."""
        entry = self.engine.manifest.files.get(self.engine.manifest.tokenizer or "")
        return f"llmc-{entry.sha256[:16] if entry else self.engine.path.name}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The engine's chat template; None if it has none or none is wanted."""
        return chat_template_text(self.engine.path) if chat_template else None

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
        """The prompt that the engine's chat template makes of messages."""
        return apply_chat_template(self.engine.path, chat_history, add_generation_prompt)

    def get_model_info(self) -> dict[str, Any]:
        """What results say of the model."""
        manifest = self.engine.manifest
        return {
            "model_dtype": manifest.dtype,
            "model_num_parameters": int(manifest.model["parameters"]),
            "model_sha": manifest.digest,
            "executor": self.engine.executor.name,
            "pipeline": manifest.pipeline,
        }

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The ids of a text. One that begins with the start token, as chat templates write it, gets no second one."""
        if add_special_tokens is None:
            begun = bool(self._prefix) and string.startswith(self._prefix)
            add_special_tokens = not begun and self.add_bos_token is not False
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        wanted = [Continuation(context, tokens) for _, context, tokens in requests]
        with tqdm(total=len(wanted), desc="Scoring continuations", disable=disable_tqdm) as bar:

            def scored(number: int, score: ContinuationScore) -> None:
                bar.update()
                if requests[number][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[number][0], tuple(score))

            how: Any = {"batch": self.batch_size, "longest": self.max_length, "scored": scored}
            found = score_continuations(self.engine, wanted, **how)
        return [(score.logprob, score.greedy) for score in found]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, in windows that do not overlap, each with as much before it as fits."""
        owners: list[int] = []
        windows: list[tuple[None, list[int], list[int]]] = []
        for number, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            rolling = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1)
            for context, own in map(make_disjoint_window, rolling):
                owners.append(number)
                windows.append((None, context, own))
        sums = [0.0] * len(requests)
        for owner, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            sums[owner] += logprob
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The texts that follow prompts, until one of a task's strings, the end token, or a number of tokens."""
        made = [self._generation(context, given) for context, given in (request.args for request in requests)]
        order = sorted(range(len(made)), key=lambda number: -len(made[number][0]))
        results = [""] * len(made)
        in_flight = self.batch_size == self.engine.manifest.limits.max_batch
        at_once = self.batch_size * (_BATCHES_AT_ONCE if in_flight else 1)
        with tqdm(total=len(made), desc="Generating", disable=disable_tqdm) as bar:

            def ended(update: Update) -> None:
                bar.update(update.finished)

            for start in range(0, len(order), at_once):
                numbers = order[start : start + at_once]
                prompts, params = [made[number][0] for number in numbers], [made[number][1] for number in numbers]
                found = self.engine.generate(prompts, params, on_update=ended, note=lambda text: None)
                for number, completion in zip(numbers, found, strict=True):
                    stops = made[number][1]["stop"]
                    results[number] = _until(self.tokenizer.decode(completion.token_ids), stops)
                    self.cache_hook.add_partial("generate_until", requests[number].args, results[number])
        return results

    def _generation(self, context: str, given: Mapping[str, Any]) -> tuple[list[int], dict[str, Any]]:
        """The prompt of a request, and its parameters."""
        wish = dict(normalize_gen_kwargs(dict(given), self.max_gen_toks))
        most = int(wish.pop("max_gen_toks"))
        room = self.max_length - most
        if room < 1:
            raise RequestError(
                f"{most} new tokens leave no room for a prompt: the engine takes {self.max_length} tokens",
                hint=f"ask for fewer (--gen_kwargs max_gen_toks={self.max_length // 2}), or compile with a larger "
                "--max-seq",
            )
        stops = [text for text in wish.pop("until") if text]
        params: dict[str, Any] = {"max_new_tokens": most, "stop": stops}
        if self._end_id is not None:
            params["stop_token_ids"] = [self._end_id]
        if not wish.get("do_sample"):
            wish.pop("temperature", None)
        if unknown := [name for name in wish if name not in _FIELDS]:
            raise RequestError(
                f"a task asks for {unknown[0]}={wish[unknown[0]]!r}, which llmc has not"
                f"{did_you_mean(unknown[0], _FIELDS)}",
                hint="docs/generation.md lists the parameters",
            )
        ids = self.tok_encode(context) if context else []
        return (ids or [self.prefix_token_id])[-room:], {**wish, **params}

    def _special(self, name: str, otherwise: int | None) -> int | None:
        """The id of a special token that the tokenizer's settings name."""
        text = special_token(self.engine.path, name)
        found = self.tokenizer.id_of(text) if text is not None else None
        return otherwise if found is None else found


def _batch(size: int | str | None, most: int | None, limit: int) -> int:
    """How many requests run at once."""
    if size is None or str(size).startswith("auto"):
        return min(limit, most or limit)
    try:
        number = int(size)
    except ValueError:
        number = 0
    if number < 1:
        raise RequestError(f"batch_size is {size!r}; it must be a number of at least 1, or auto")
    return min(number, limit)


def _length(wanted: int | None, most: int) -> int:
    """How many tokens a request has at most."""
    if wanted is None:
        return most
    if not 1 < int(wanted) <= most:
        raise RequestError(
            f"max_length is {wanted}; the engine takes 2 to {most}", hint=f"compile with --max-seq {wanted}"
        )
    return int(wanted)


def _until(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text
