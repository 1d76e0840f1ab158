"""What tools put around the tensors of a model: prefixes before their names, and buffers among them."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compiler.errors import CheckpointError
from tests.frontends.models import logits_of
from tests.frontends.spoiling import MODELS, lifted, spoiled
from tests.frontends.steps import assert_same_logits

PREFIXES = ["module", "_orig_mod", "model", "base_model", "net", "transformer", "x1"]
LAYERS = {
    "gpt_neox": "gpt_neox.layers.0.attention",
    "gptj": "transformer.h.0.attn",
    "opt": "model.decoder.layers.0.self_attn",
    "mpt": "transformer.blocks.0.attn",
}
# Some that tools were seen to write, with what they hold.
BUFFERS: dict[str, Tensor] = {
    "rotary_emb.cos_cached": torch.zeros(1, 1, 8, 4),
    "rotary_emb.sin_cached": torch.zeros(8, 4),
    "position_ids": torch.arange(8)[None],
    "masked_bias": torch.tensor(-1e9),
    "causal_mask": torch.ones(8, 8, dtype=torch.bool).tril(),
    "_extra_state": torch.zeros(3, dtype=torch.uint8),
    "total_ops": torch.zeros(1, dtype=torch.float64),
    "num_batches_tracked": torch.tensor(7),
    "seq_len_cached": torch.tensor(8, dtype=torch.int16),
}


@settings(max_examples=30)
@given(
    family=st.sampled_from(sorted(MODELS)),
    prefix=st.lists(st.sampled_from(PREFIXES), max_size=3),
    buffers=st.lists(st.sampled_from(sorted(BUFFERS)), max_size=3, unique=True),
    wrapped=st.booleans(),
)
def test_prefixes_and_leftovers_change_nothing(family: str, prefix: list[str], buffers: list[str], wrapped: bool):
    model = MODELS[family]()
    before = "".join(f"{part}." for part in prefix)

    def spoil(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        left = {f"{LAYERS[family]}.{name}" if wrapped else name: BUFFERS[name] for name in buffers}
        named = {before + name: tensor for name, tensor in tensors.items()}
        return named | {(before if wrapped else "") + name: tensor for name, tensor in left.items()}

    with spoiled(model, spoil) as folder:
        graph, notes = lifted(folder)
        assert_same_logits(graph, logits_of(model), vocab=31, seed=0)
    assert notes == ([f"the name of every tensor begins with {before!r}, which is left out"] if before else [])


@pytest.mark.parametrize("kept", [".0.", "embed|wte", "(ln_f|norm_f|final_layer_norm).weight"])
@pytest.mark.parametrize("family", MODELS)
def test_a_prefix_that_some_names_lack_is_named(family: str, kept: str):
    def spoil(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        kept_back = [name for name in tensors if re.search(kept, name)][:2]
        return {name if name in kept_back else f"module.{name}": tensor for name, tensor in tensors.items()}

    with spoiled(MODELS[family](), spoil) as folder, pytest.raises(CheckpointError) as error:
        lifted(folder)
    assert "the names of some tensors begin with 'module.', such as 'module." in error.value.message
    assert "others do not: '" in error.value.message
    assert error.value.hint is not None and "rename" in error.value.hint


@pytest.mark.parametrize("name", ["adapter.weight", "gpt_neox.layers.0.attention.rotary_emb.scale", "lora_A"])
def test_unknown_tensors_are_refused(name: str):
    with (
        spoiled(MODELS["gpt_neox"](), lambda tensors: {**tensors, name: torch.ones(4)}) as folder,
        pytest.raises(CheckpointError) as error,
    ):
        lifted(folder)
    assert f"the tensor {name!r} in model.safetensors has no place" in error.value.message


def causal(size: int) -> Tensor:
    return torch.ones(1, 1, size, size, dtype=torch.bool).tril()


FREQUENCIES = 1 / 10000 ** (torch.arange(0, 2, 2) / 2)
ANGLES = torch.arange(8)[:, None] * (1 / 10000 ** (torch.arange(0, 4, 2) / 4))
TABLE = torch.cat([ANGLES.sin(), ANGLES.cos()], 1)
SAYS = "the tensor {!r} says otherwise than {}, which is followed"
MASK, BASE, WIDTH = "the causal mask of this family", "'rotary_emb_base' in config.json", "'rotary_dim' in config.json"
DERIVED = {
    "a mask": ("gpt_neox", "bias", causal(8), None),
    "a mask of bytes": ("gptj", "bias", causal(8).byte(), None),
    "a mask that hides nothing": ("gptj", "bias", torch.ones(1, 1, 8, 8, dtype=torch.bool), MASK),
    "a mask of a window": ("gpt_neox", "bias", causal(8) & ~torch.ones(8, 8, dtype=torch.bool).tril(-3), MASK),
    "a small value where the mask hides": ("gptj", "masked_bias", torch.tensor(-10000.0), None),
    "a value that hides little": ("gptj", "masked_bias", torch.tensor(-1.0), MASK),
    "frequencies": ("gpt_neox", "rotary_emb.inv_freq", FREQUENCIES, None),
    "frequencies in 16 bits": ("gpt_neox", "rotary_emb.inv_freq", FREQUENCIES.half(), None),
    "other frequencies": ("gpt_neox", "rotary_emb.inv_freq", FREQUENCIES * 0.9, BASE),
    "more frequencies": ("gpt_neox", "rotary_emb.inv_freq", torch.ones(2), BASE),
    "sines and cosines": ("gptj", "embed_positions", TABLE, None),
    "other sines": ("gptj", "embed_positions", TABLE.flip(1), WIDTH),
}


@pytest.mark.parametrize("case", DERIVED)
def test_buffers_that_follow_from_the_config_are_compared_with_it(case: str):
    """transformers computes them anew, whatever is stored; so does llmc, and says where that makes a difference."""
    family, name, stored, source = DERIVED[case]
    tensor = f"{LAYERS[family]}.{name}"
    keys = {"rotary_pct": 0.25} if family == "gpt_neox" else {}
    model = MODELS[family](**keys)
    with spoiled(model, lambda tensors: {**tensors, tensor: stored}) as folder:
        graph, notes = lifted(folder)
        assert_same_logits(graph, logits_of(model), vocab=31, seed=0)
    assert notes == ([SAYS.format(tensor, source)] if source else [])
