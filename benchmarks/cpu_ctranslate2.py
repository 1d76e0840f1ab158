"""CTranslate2 as a contender of `cpu.py`: what its own converter makes of the checkpoint."""

from __future__ import annotations

from typing import Any

import ctranslate2
import transformers
from cpu_contender import WIDEST, Contender, Job


def prepare(job: Job) -> None:
    """Convert the checkpoint; the recipe is a `quantization` of CTranslate2.

    Its converter reads two attributes of GPT-NeoX configs under names that transformers 5 has given up.
    """
    neox: Any = transformers.GPTNeoXConfig
    neox.rotary_pct = property(lambda config: config.rope_parameters.get("partial_rotary_factor", 0.25))
    neox.rotary_emb_base = property(lambda config: config.rope_parameters["rope_theta"])
    converter = ctranslate2.converters.TransformersConverter(job.checkpoint)
    converter.convert(job.folder, quantization=job.recipe)


class CTranslate2(Contender):
    """A generator."""

    def __init__(self, job: Job) -> None:
        self._model = ctranslate2.Generator(
            job.folder, device="cpu", compute_type=job.recipe, inter_threads=1, intra_threads=job.threads
        )

    def facts(self) -> dict[str, Any]:
        """Its version."""
        return {"version": ctranslate2.__version__}

    def run(self, ids: list[list[int]], new: int) -> list[list[int]]:
        """See `Contender.run`."""
        prompts = [[f"t{token}" for token in row] for row in ids]
        found = self._model.generate_batch(
            prompts, max_batch_size=WIDEST, max_length=new, min_length=new, sampling_topk=1, end_token=[],
            include_prompt_in_result=False,
        )  # fmt: skip
        return [list(result.sequences_ids[0]) for result in found]


def open_contender(job: Job) -> Contender:
    """The generator."""
    return CTranslate2(job)
