"""transformers as a contender of `cpu.py`: `generate`, eager."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from cpu_contender import Contender, Job


def prepare(job: Job) -> None:
    """Nothing: it reads the checkpoint."""
    del job


class Transformers(Contender):
    """A model in one element type."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        dtype = getattr(torch, job.recipe)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(job.checkpoint, dtype=dtype).eval()
        self._model.generation_config.eos_token_id = None

    def facts(self) -> dict[str, Any]:
        """Its version."""
        return {"version": transformers.__version__}

    def run(self, ids: list[list[int]], new: int) -> list[list[int]]:
        """See `Contender.run`."""
        given = torch.tensor(ids)
        found = self._model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=new, do_sample=False, pad_token_id=0
        )
        tokens: list[list[int]] = found[:, given.shape[1] :].tolist()
        return tokens


def open_contender(job: Job) -> Contender:
    """The model."""
    return Transformers(job)
