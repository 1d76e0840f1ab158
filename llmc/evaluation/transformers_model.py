"""A checkpoint run by `transformers`, to be compared with an engine: same token ids in, same settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from compiler.errors import RequestError
from llmc.naming import checkpoint_folder
from runtime.generation.sampling_params import SamplingParams


@dataclass(frozen=True)
class TransformersModel:
    """A model of `transformers`.

    Attributes:
        name: the checkpoint.
        model: the model, on its device.
        end_ids: the tokens that end a text.
        pad_id: the token that stands where a row has none.
    """

    name: str
    model: Any
    end_ids: tuple[int, ...]
    pad_id: int

    @property
    def runner(self) -> str:
        """What runs it, for tables: `transformers 5.23.0, float32, cpu`."""
        import transformers

        dtype = str(self.model.dtype).removeprefix("torch.")
        return f"transformers {transformers.__version__}, {dtype}, {self.model.device}"

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        on_token: Callable[[], object] | None = None,
    ) -> list[list[int]]:
        """Extend prompts as one batch, padded on the left.

        Args:
            prompts: token ids of each.
            params: how; what is read of it is the number of new tokens, whether ends count, beams, their length
                penalty, and how tokens are drawn.
            on_token: called when each row has got a token more, without beams.

        Returns:
            The new tokens of each, without what pads them; an end token that ended a text is the last.
        """
        from transformers import GenerationConfig

        longest = max(map(len, prompts))
        rows = [[self.pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        wish: dict[str, Any] = {
            "max_new_tokens": params.max_new_tokens,
            "do_sample": not params.greedy and params.num_beams == 1,
            "num_beams": params.num_beams,
            "use_cache": True,  # whatever the checkpoint's config says
            "pad_token_id": self.pad_id,
            "eos_token_id": None if params.ignore_eos else list(self.end_ids) or None,
        }
        if params.ignore_eos:
            wish["min_new_tokens"] = params.max_new_tokens
        if wish["do_sample"]:
            wish |= {"top_k": params.top_k, "temperature": params.temperature or 1.0, "top_p": params.top_p}
        if params.num_beams > 1:
            wish |= {"length_penalty": params.length_penalty, "early_stopping": params.early_stopping}
        tensors = (torch.tensor(each, device=self.model.device) for each in (rows, mask))
        ids, attention_mask = tensors
        config, watching = GenerationConfig(**wish), _watching(on_token)
        texts = self.model.generate(
            ids, attention_mask=attention_mask, generation_config=config, stopping_criteria=watching
        )
        ends = () if params.ignore_eos else self.end_ids
        return [_until_end(text[longest:], ends) for text in texts.tolist()]


def _watching(on_token: Callable[[], object] | None) -> Any:
    """What stops nothing, and calls a function at each token; None for none."""
    if on_token is None:
        return None
    from transformers import StoppingCriteriaList

    def came(input_ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        input_ids[:, -1].cpu()  # until the tokens are there
        on_token()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    return StoppingCriteriaList([came])


def _until_end(tokens: list[int], end_ids: Sequence[int]) -> list[int]:
    at = next((place for place, token in enumerate(tokens) if token in end_ids), len(tokens))
    return tokens[: at + 1]


def check_vocabulary(name: str, vocab_size: int) -> None:
    """Read a checkpoint's config alone, so that what is wrong is said before any long work.

    Raises:
        CheckpointError: if there is no such checkpoint.
        RequestError: if `transformers` does not know it, or its vocabulary is not of this size.
    """
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(checkpoint_folder(name))
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_load(name, error) from None
    if found.vocab_size != vocab_size:
        raise RequestError(
            f"{name} has a vocabulary of {found.vocab_size} tokens, and the engine one of {vocab_size}",
            hint="compare the engine with the checkpoint that it was made from",
        )


def load_transformers(
    name: str, *, dtype: str, device: str, end_ids: Sequence[int], note: Callable[[str], None]
) -> TransformersModel:
    """Load a checkpoint with `transformers`; code that it may carry is not run.

    Args:
        name: a folder, or an id of the hub.
        dtype: the element type to compute in.
        device: `cpu`, `cuda`, `cuda:N`, or `auto`: CUDA where there is a device.
        end_ids: the tokens that end a text.
        note: called with a sentence about each thing that makes the comparison less than equal.

    Raises:
        CheckpointError: if there is no such checkpoint.
        RequestError: if `transformers` cannot load it.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if dtype not in ("float32", "float16", "bfloat16"):
        note(f"transformers computes in float32: it has no {dtype}")
        dtype = "float32"
    try:
        model = (
            AutoModelForCausalLM.from_pretrained(checkpoint_folder(name), dtype=getattr(torch, dtype)).to(place).eval()
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise _cannot_load(name, error) from None
    config = model.generation_config
    pad = config.pad_token_id if config.pad_token_id is not None else (end_ids[0] if end_ids else 0)
    return TransformersModel(name, model, tuple(end_ids), int(pad))


def _cannot_load(name: str, error: Exception) -> RequestError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return RequestError(
        f"transformers cannot load {name}: {reason}", hint="give a checkpoint: a folder, or an id of the hub"
    )
