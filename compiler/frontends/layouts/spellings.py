"""Old spellings of a family's configs and tensors, brought into those that its frontend knows.

MosaicML's models were called `mosaic_gpt` before llm-foundry, and their configs were flat; Replit-code v1 keeps the
names of that time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from compiler.errors import CheckpointError
from compiler.store.stored_tensor import StoredTensor

Rename = Callable[[str], str]
"""The name of a tensor in the usual spelling, given the stored one."""

# Keys that moved into a section, and what they are called there.
_SECTIONS = {
    "attn_config": {
        "alibi": "alibi",
        "alibi_bias_max": "alibi_bias_max",
        "attn_clip_qkv": "clip_qkv",
        "attn_impl": "attn_impl",
        "attn_pdrop": "attn_pdrop",
        "attn_qk_ln": "qk_ln",
        "attn_uses_sequence_id": "attn_uses_sequence_id",
        "prefix_lm": "prefix_lm",
        "softmax_scale": "softmax_scale",
    },
    "init_config": {
        "param_init_fn": "name",
        **{
            key: key
            for key in (
                *("emb_init_std", "emb_init_uniform_lim", "fan_mode", "init_div_is_residual", "init_gain"),
                *("init_nonlinearity", "init_std"),
            )
        },
    },
}
_NORMS = {True: "low_precision_layernorm", False: "layernorm"}
# In names of tensors, in this order. `mhsa` is torch's own module for attention, whose rows are Q, K and V as well.
_NAMES = tuple(
    (re.compile(old), new)
    for old, new in (
        (r"\.causal_attn\.mhs?a\.in_proj_", ".attn.Wqkv."),
        (r"\.causal_attn\.mhs?a\.", ".attn."),
        (r"\.causal_attn\.", ".attn."),
        (r"\.ln_(1|2|f)\.", r".norm_\1."),
        (r"\.mlp\.(mlp_)?(up|down)(_proj)?\.", r".ffn.\2_proj."),
    )
)


def respelled(config: dict[str, Any]) -> tuple[dict[str, Any], Rename]:
    """The config in the usual spelling, and what to call its tensors."""
    if config.get("model_type") not in ("mpt", "mosaic_gpt"):
        return config, str
    return _flat_mpt(config), _mpt_name


def spell(tensors: Mapping[str, StoredTensor], rename: Rename) -> Mapping[str, StoredTensor]:
    """The tensors by their names in the usual spelling; CheckpointError if two get the same."""
    if rename is str:
        return tensors
    spelled: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        usual = rename(name)
        if usual in spelled:
            raise CheckpointError(f"the tensors {spelled[usual].name!r} and {name!r} are two spellings of one")
        spelled[usual] = tensor
    return spelled


def _mpt_name(name: str) -> str:
    for old, new in _NAMES:
        name = old.sub(new, name)
    return name


def _flat_mpt(config: dict[str, Any]) -> dict[str, Any]:
    """A config of the time before sections; a key that a section has already stays where it is."""
    result = dict(config)
    if result.get("model_type") == "mosaic_gpt":
        # The class's new name tells that missing keys have llm-foundry's defaults.
        result |= {"model_type": "mpt", "architectures": ["MPTForCausalLM"]}
    for section, keys in _SECTIONS.items():
        inner = result.get(section)
        if inner is not None and not isinstance(inner, dict):
            continue  # the frontend says what is wrong with it
        moved = {new: result.pop(old) for old, new in keys.items() if old in result and new not in (inner or {})}
        if moved:
            result[section] = {**(inner or {}), **moved}
    if "mlp_ratio" in result and "expansion_ratio" not in result:
        result["expansion_ratio"] = result.pop("mlp_ratio")
    if "norm_type" not in result and isinstance(result.get("low_precision_layernorm"), bool):
        result["norm_type"] = _NORMS[result.pop("low_precision_layernorm")]
    return result
