"""What the logits of an engine are compared with: those of the CPU, and those of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compiler.ir.comparison import relative_error
from compiler.ir.graph import Graph
from compiler.ir.step import Step
from llmc.verification.tolerance import unrounded
from runtime.executors.torch.executor import TorchExecutor


class CpuLogits:
    """What the executor `torch` makes of a graph on the CPU; it stands for `Reference` in `compare`."""

    def __init__(self, graph: Graph) -> None:
        self._executor = TorchExecutor(graph, device="cpu", rows=1)
        plain = unrounded(graph)
        self._plain = None if plain is None else CpuLogits(plain)

    def logits(self, prompt: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """The logits from which each of `tokens` is to be chosen, `[tokens, vocabulary]`."""
        given = [*prompt, *tokens[:-1]]
        wanted = torch.arange(len(prompt) - 1, len(given), dtype=torch.int32)[None]
        with torch.inference_mode():
            return self._executor.open(1, len(given)).step(Step.of_prompts([given]).wanting(wanted))[0].float().clone()

    def rounding(self, prompt: Sequence[int], tokens: Sequence[int]) -> float:
        """See `Reference.rounding`."""
        if self._plain is None:
            return 0.0
        return 2 * relative_error(self.logits(prompt, tokens), self._plain.logits(prompt, tokens))


@torch.inference_mode()
def transformers_logits(
    folder: Path, dtype: torch.dtype, device: str, prompt: Sequence[int], tokens: Sequence[int]
) -> Tensor:
    """What transformers gives, computed in a type: float64 `[tokens, vocabulary]`, as of `CpuLogits.logits`."""
    given = torch.tensor([[*prompt, *tokens[:-1]]], device=device)
    return _transformers(folder, dtype, device)(given).logits[0, len(prompt) - 1 :].double().cpu()


@cache
def _transformers(folder: Path, dtype: torch.dtype, device: str) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
