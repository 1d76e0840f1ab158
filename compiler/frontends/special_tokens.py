"""Which token ids end a text, begin it, and pad it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compiler.errors import ConfigError
from compiler.frontends.registry import FAMILIES
from compiler.json_fields import Fields


def special_tokens(family: str, config: Mapping[str, Any], generation: Mapping[str, Any]) -> dict[str, Any]:
    """The ids with a meaning: from `generation_config.json`, else from `config.json`, else the family's own.

    Args:
        family: the `model_type` of a registered family.
        config: the content of `config.json`.
        generation: the content of `generation_config.json`.

    Returns:
        `eos`, a tuple of the ids any of which ends a text; `bos` and `pad`, an id or None.

    Raises:
        ConfigError: if a key holds something other than an id (or, for the end, a list of ids).
    """
    defaults = FAMILIES[family].special_tokens

    def find(name: str) -> Any:
        key = f"{name}_token_id"
        if generation.get(key) is not None:
            return _ids("generation_config.json", generation, key, several=name == "eos")
        return _ids("config.json", {key: defaults.get(name), **config}, key, several=name == "eos")

    eos = find("eos")
    ends = () if eos is None else tuple(eos) if isinstance(eos, list) else (eos,)
    return {"eos": ends, "bos": find("bos"), "pad": find("pad")}


def _ids(file: str, values: Mapping[str, Any], key: str, *, several: bool) -> Any:
    fields = Fields(values, label=f"{file}: the key", error=ConfigError)
    value = values[key]
    # transformers writes -1 for "none" in some old configs.
    if value is None or value == -1:
        return None
    if several and isinstance(value, list):
        return list(fields.integers(key, low=0))
    return fields.integer(key)
