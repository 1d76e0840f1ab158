"""What `llmc bench` times: the engine, `transformers`, and other tools where they are installed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from compiler.errors import RequestError
from compiler.suggest import did_you_mean
from llmc.benchmarking.runs import Runner, Times
from llmc.evaluation.transformers_model import TransformersModel, load_transformers
from llmc.naming import checkpoint_folder
from runtime.generation.engine import Engine
from runtime.generation.in_flight import Update
from runtime.generation.sampling_params import SamplingParams

TRANSFORMERS = "transformers"


class EngineRunner:
    """An engine, as a user of `Engine.generate` sees it: caches are allocated for each run. See `Runner`."""

    def __init__(self, engine: Engine, *, on_gpu: bool) -> None:
        self.name = f"llmc ({engine.executor.name})"
        self.warm_up = 2 if on_gpu else 1  # what a GPU meets for the second time is captured
        self._engine = engine

    def run(self, prompts: Sequence[Sequence[int]], output: int) -> Times:
        """See `Runner.run`."""
        arrivals: list[list[float]] = [[] for _ in prompts]

        def came(update: Update) -> None:
            if update.token_id is not None:
                arrivals[update.group.number].append(time.perf_counter())

        params = SamplingParams(max_new_tokens=output, ignore_eos=True, do_sample=False)
        started = time.perf_counter()
        self._engine.generate([list(prompt) for prompt in prompts], params, on_update=came)
        return Times.of(started, arrivals, time.perf_counter())


class TransformersRunner:
    """A checkpoint by `transformers`, greedily. See `Runner`."""

    warm_up = 1

    def __init__(self, model: TransformersModel) -> None:
        self.name, self._model = TRANSFORMERS, model

    def run(self, prompts: Sequence[Sequence[int]], output: int) -> Times:
        """See `Runner.run`."""
        arrivals: list[float] = []
        params = SamplingParams(max_new_tokens=output, ignore_eos=True, do_sample=False)
        started = time.perf_counter()
        self._model.generate(prompts, params, on_token=lambda: arrivals.append(time.perf_counter()))
        return Times.of(started, [arrivals], time.perf_counter())


class VllmRunner:
    """A checkpoint by vLLM. It tells the time of the whole alone; see `Runner`."""

    warm_up = 2

    def __init__(self, model: str, *, dtype: str, device: str, longest: int) -> None:
        from vllm import LLM

        self.name = "vllm"
        place = str(checkpoint_folder(model))
        self._model = LLM(model=place, dtype=dtype, max_model_len=longest, enable_prefix_caching=False)

    def run(self, prompts: Sequence[Sequence[int]], output: int) -> Times:
        """See `Runner.run`. A run with a single new token before tells the time of the first."""
        first = self._seconds(prompts, 1)
        total = self._seconds(prompts, output)
        return Times(first, (total - first) / (output - 1), total)

    def _seconds(self, prompts: Sequence[Sequence[int]], output: int) -> float:
        from vllm import SamplingParams as Wish

        wish = Wish(max_tokens=output, min_tokens=output, ignore_eos=True, temperature=0.0, detokenize=False)
        started = time.perf_counter()
        self._model.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts], wish, use_tqdm=False)
        return time.perf_counter() - started


class CTranslate2Runner:
    """A checkpoint by CTranslate2, which converts it first. See `Runner`."""

    warm_up = 1

    def __init__(self, model: str, *, dtype: str, device: str, longest: int) -> None:
        import ctranslate2
        from transformers import AutoTokenizer

        self.name = "ctranslate2"
        place = checkpoint_folder(model)
        kind = "cuda" if device.startswith("cuda") else "cpu"
        self._tokens = AutoTokenizer.from_pretrained(place).convert_ids_to_tokens
        with tempfile.TemporaryDirectory(prefix="llmc-") as folder:
            made = Path(folder) / "model"
            ctranslate2.converters.TransformersConverter(str(place)).convert(str(made))
            self._model = ctranslate2.Generator(
                str(made), device=kind, compute_type=dtype, intra_threads=torch.get_num_threads()
            )

    def run(self, prompts: Sequence[Sequence[int]], output: int) -> Times:
        """See `Runner.run`. A run with a single new token before tells the time of the first."""
        texts = [self._tokens(list(prompt)) for prompt in prompts]
        first = self._seconds(texts, 1)
        total = self._seconds(texts, output)
        return Times(first, (total - first) / (output - 1), total)

    def _seconds(self, texts: list[list[str]], output: int) -> float:
        started = time.perf_counter()
        self._model.generate_batch(
            texts, max_length=output, min_length=output, sampling_topk=1, include_prompt_in_result=False, end_token=[]
        )
        return time.perf_counter() - started


TOOLS: dict[str, Any] = {TRANSFORMERS: TransformersRunner, "vllm": VllmRunner, "ctranslate2": CTranslate2Runner}
"""What can be timed beside an engine, by name; each is a package of the same name."""


def check_tools(names: Sequence[str]) -> None:
    """RequestError if there is no such tool, or it is not installed."""
    for name in names:
        if name not in TOOLS:
            raise RequestError(
                f"there is no tool {name!r}{did_you_mean(name, TOOLS)}", hint=f"the tools are {', '.join(TOOLS)}"
            )
        if find_spec(name) is None:
            raise RequestError(f"{name} is not installed", hint=f"pip install {name}, or leave --against-tool out")


def open_tool(name: str, model: str, *, dtype: str, device: str, longest: int, note: Any) -> Runner:
    """A tool with a checkpoint loaded.

    Args:
        name: the tool.
        model: the checkpoint.
        dtype: the element type to compute in.
        device: `cpu`, `cuda` or `cuda:N`.
        longest: how many tokens a sequence has at most.
        note: called with sentences for the user.

    Raises:
        RequestError: naming the tool and its reason, if it cannot load the checkpoint.
    """
    if name == TRANSFORMERS:
        return TransformersRunner(load_transformers(model, dtype=dtype, device=device, end_ids=(), note=note))
    try:
        made: Runner = TOOLS[name](model, dtype=dtype, device=device, longest=longest)
    except RequestError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever another tool fails with, the user is told
        reason = shorten(str(error), 200) or type(error).__name__
        raise RequestError(f"{name} cannot load {model}: {reason}", hint="leave --against-tool out") from None
    return made
