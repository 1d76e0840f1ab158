"""llama.cpp as a contender of `cpu.py`, through the calls of `llama-cpp-python` that mirror its C interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from cpu_contender import LONGEST, Contender, Job
from cpu_gguf import write_gguf


def prepare(job: Job) -> None:
    """Write the checkpoint as a GGUF file whose matrices have the type that the recipe names."""
    job.place.mkdir(parents=True)
    write_gguf(Path(job.checkpoint), job.place / "model.gguf", job.recipe)


class LlamaCpp(Contender):
    """A model, and a context for as many sequences as come."""

    def __init__(self, job: Job) -> None:
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(job.place / "model.gguf").encode(), params)
        if not self._model:
            raise RuntimeError("llama.cpp does not load the file")
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._threads, self._batch, self._context = job.threads, 0, None
        self.expect(1)

    def expect(self, batch: int) -> None:
        """See `Contender.expect`."""
        if batch == self._batch:
            return
        if self._context:
            llama_cpp.llama_free(self._context)
            llama_cpp.llama_batch_free(self._tokens)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_seq_max = batch * LONGEST, batch * LONGEST, batch
        params.n_threads = params.n_threads_batch = self._threads
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._tokens = llama_cpp.llama_batch_init(batch * LONGEST, 0, 1)
        self._batch = batch

    def facts(self) -> dict[str, Any]:
        """Its version, and what of the processor it was built to use."""
        return {"version": llama_cpp.__version__, "system": llama_cpp.llama_print_system_info().decode()}

    def run(self, ids: list[list[int]], new: int) -> list[list[int]]:
        """See `Contender.run`."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        given, past, found = ids, 0, []
        for _ in range(new):
            tokens = self._step(given, past)
            past += len(given[0])
            given = [[token] for token in tokens]
            found.append(tokens)
        return [list(row) for row in zip(*found, strict=True)]

    def _step(self, ids: list[list[int]], past: int) -> list[int]:
        """The next token of each row."""
        batch, length = self._tokens, len(ids[0])
        batch.n_tokens = len(ids) * length
        for row, tokens in enumerate(ids):
            for column, token in enumerate(tokens):
                at = row * length + column
                batch.token[at], batch.pos[at] = token, past + column
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, row
                batch.logits[at] = column == length - 1
        if status := llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode returns {status}")
        return [self._best((row + 1) * length - 1) for row in range(len(ids))]

    def _best(self, at: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, at)
        return int(np.ctypeslib.as_array(logits, (self._vocabulary,)).argmax())


def open_contender(job: Job) -> Contender:
    """The model."""
    return LlamaCpp(job)
