"""Ways to serve a load: llmc in flight and static, and transformers' continuous batching."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from serving_load import Served

from runtime.executors.interface import Executor, Session
from runtime.generation.engine import Engine
from runtime.generation.generate import generate
from runtime.generation.requests import Request


class Way(Protocol):
    """A way to serve."""

    def serve(self, requests: Sequence[Served]) -> float:
        """Serve requests, which come in order at their times; returns how many seconds it took."""
        ...


class InFlight:
    """`Engine.submit` and `Engine.step`: a request enters as soon as it is there and a row is free."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def serve(self, requests: Sequence[Served]) -> float:
        """See `Way.serve`."""
        engine, waiting, by_group = self._engine, list(requests), {}
        start = time.perf_counter()
        while waiting or not engine.is_idle:
            now = time.perf_counter() - start
            while waiting and waiting[0].arrival <= now:
                request = waiting.pop(0)
                group = engine.submit(request.prompt, max_new_tokens=request.new_tokens, ignore_eos=True)
                by_group[group] = request
            if engine.is_idle:
                time.sleep(max(0.0, waiting[0].arrival - now))
                continue
            for update in engine.step():
                if update.token_id is not None:
                    by_group[update.group].take(update.token_id, time.perf_counter() - start)
        return time.perf_counter() - start


class _OneSession:
    """An executor that gives out one session again and again, as a server that keeps its caches does."""

    name = "one session"

    def __init__(self, session: Session) -> None:
        self._session = session

    def open(self, batch: int, capacity: int) -> Session:
        return self._session


class Static:
    """Groups in the order of arrival, as older runtimes ran them.

    A group has as many requests as have come, up to the batch. Its prompts are padded to the longest one, all of its
    rows are computed until its longest text has ended, and only then the next group begins.
    """

    def __init__(self, executor: Executor, batch: int, longest: int) -> None:
        self._batch = batch
        self._executor = _OneSession(executor.open(batch, longest))

    def serve(self, requests: Sequence[Served]) -> float:
        """See `Way.serve`."""
        waiting = list(requests)
        start = time.perf_counter()
        while waiting:
            now = time.perf_counter() - start
            group = [request for request in waiting if request.arrival <= now][: self._batch]
            if not group:
                time.sleep(max(0.0, waiting[0].arrival - now))
                continue
            waiting = waiting[len(group) :]
            longest = max(request.new_tokens for request in group)

            def came(number: int, token: int, group: list[Served] = group) -> None:
                group[number].take(token, time.perf_counter() - start)

            wanted = [Request(tuple(request.prompt), longest) for request in group]
            generate(self._executor, wanted, batch=self._batch, on_token=came)
        return time.perf_counter() - start


class ContinuousBatching:
    """`ContinuousBatchingManager` of transformers, with as many sequences and cached tokens as llmc has.

    What is not said here is its own choice, so that it takes flash attention and CUDA graphs where it finds them.

    Attributes:
        manager: the manager.
        words: what it chose.
    """

    PAGE = 256

    def __init__(self, model: Any, batch: int, longest: int, step_tokens: int, *, flash: bool = True) -> None:
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        wishes = {
            "num_blocks": batch * -(-longest // self.PAGE),
            "max_batch_tokens": step_tokens,
            "max_requests_per_batch": batch,
            "auto_switch_to_flash": flash,  # not in all releases; without it, the attention is the model's
        }
        known = {field.name for field in dataclasses.fields(ContinuousBatchingConfig)}
        # The tokens of a page come first, under each of the names that they have had.
        config = ContinuousBatchingConfig(self.PAGE, **{name: wish for name, wish in wishes.items() if name in known})
        greedy = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=longest)
        self.manager = model.init_continuous_batching(generation_config=greedy, continuous_batching_config=config)
        self.manager.warmup()
        self.manager.start()
        chosen = self.manager.continuous_batching_config
        self.words = f"{model.config._attn_implementation}, CUDA graphs {chosen.use_cuda_graph}"

    def serve(self, requests: Sequence[Served]) -> float:
        """See `Way.serve`; RuntimeError if a request fails, or the manager ends."""
        waiting, by_id = list(requests), {}
        start = time.perf_counter()
        unfinished = len(requests)
        while unfinished:
            now = time.perf_counter() - start
            while waiting and waiting[0].arrival <= now:
                request = waiting.pop(0)
                name = self.manager.add_request(
                    request.prompt, max_new_tokens=request.new_tokens, record_timestamps=True
                )
                by_id[name] = request
            patience = min(0.5, max(1e-3, waiting[0].arrival - now)) if waiting else 0.5
            result = self.manager.get_result(timeout=patience)
            if result is None:
                if not self.manager.is_running():
                    raise RuntimeError(str(self.manager.background_thread_status.fatal_error))
                continue
            if result.error is not None:
                raise RuntimeError(result.error)
            if result.is_finished():
                unfinished -= 1
                for token, seconds in zip(result.generated_tokens, result.timestamps, strict=True):
                    by_id[result.request_id].take(token, seconds - start)
        return time.perf_counter() - start

    def stop(self) -> None:
        """End its thread."""
        with contextlib.suppress(Exception):  # it may have ended by itself
            self.manager.stop(block=True, timeout=10, hard_stop=True)


@contextlib.contextmanager
def continuous_batching(model: Any, batch: int, longest: int, step_tokens: int) -> Iterator[ContinuousBatching]:
    """A model in transformers' continuous batching, tried out; RuntimeError, with the reason, if it does not run here.

    Flash attention may be chosen and then not be had: in that case it is tried without.
    """
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)  # what fails is raised below
    reasons = []
    for flash in (True, False):
        way = None
        try:
            way = ContinuousBatching(model, batch, longest, step_tokens, flash=flash)
            way.serve([Served([1, 2, 3], 4, 0.0)])
        except Exception as error:  # noqa: BLE001 - whatever keeps it from running here, it is not what we measure
            reasons.append(f"{type(error).__name__}: {error}".strip().splitlines()[0])
            if way is not None:
                way.stop()
            continue
        try:
            with torch.inference_mode():
                yield way
        finally:
            way.stop()
        return
    raise RuntimeError("; ".join(dict.fromkeys(reasons)))
