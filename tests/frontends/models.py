"""Random models of transformers, large enough in their weights that every part matters."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from tests.frontends.steps import assert_same_logits, lift_folder

transformers.utils.logging.disable_progress_bar()


def randomize(named: Any, seed: int) -> None:
    """Give every parameter values of a size at which attention is neither flat nor a single spike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in named:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            if parameter.dim() == 1:
                parameter.copy_(0.3 * noise + (0.0 if name.endswith("bias") else 1.0))
            else:
                parameter.copy_(noise * 1.5 / parameter.shape[-1] ** 0.5)


def random_model(model_class: Any, config: Any, seed: int) -> Any:
    """A model of that class with random weights, in float32."""
    model = model_class(config).float().eval()
    randomize(model.named_parameters(), seed)
    model.tie_weights()
    return model


def neox() -> Any:
    """A small GPT-NeoX model, always the same."""
    return random_model(transformers.GPTNeoXForCausalLM, neox_config(), seed=0)


def neox_config(**keys: Any) -> Any:
    """The config of a small GPT-NeoX model, with these keys changed."""
    sizes = {
        "vocab_size": 31,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 24,
    }
    return transformers.GPTNeoXConfig(**(sizes | keys))


@contextmanager
def saved(model: Any, **options: Any) -> Iterator[Path]:
    """A folder that holds the model as transformers saves it."""
    with tempfile.TemporaryDirectory() as name:
        model.save_pretrained(name, **options)
        yield Path(name)


def logits_of(model: Any) -> Callable[[list[int]], Tensor]:
    """The model's logits for whole rows, in float64."""
    double = model.double()

    @torch.no_grad()
    def compute(row: list[int]) -> Tensor:
        found: Tensor = double(torch.tensor([row]), use_cache=False).logits[0]
        return found

    return compute


def check(model_class: Any, config: Any, seed: int) -> None:
    """The lifted graph of a random model computes what the model does."""
    model = random_model(model_class, config, seed)
    with saved(model) as folder:
        assert_same_logits(lift_folder(folder), logits_of(model), vocab=config.vocab_size, seed=seed)
