"""How MPT's layers differ from each other: the key `block_overrides` of llm-foundry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compiler.errors import ConfigError
from compiler.frontends.config import Config


@dataclass(frozen=True)
class LayerPlan:
    """What is particular to one layer.

    Attributes:
        window: how many positions back it sees; None for all.
        source: the layer whose keys and values it uses; None for its own.
        rotary: whether its queries and keys rotate, where the model has rotary positions.
    """

    window: int | None
    source: int | None = None
    rotary: bool = True


def layer_plans(overrides: Config, count: int, window: int, *, rotary: bool) -> tuple[LayerPlan, ...]:
    """The plan of each of `count` layers.

    Args:
        overrides: the section `block_overrides`, empty if there is none.
        count: how many layers there are.
        window: `sliding_window_size` where no override says otherwise; -1 for none.
        rotary: whether the model has rotary positions.

    Raises:
        ConfigError: if the order does not fit the layers, or overrides anything that is not supported.
    """
    if not overrides.values:
        return (LayerPlan(_window(overrides, window), None, rotary),) * count
    for old in ("start", "repeating_pattern", "end"):
        overrides.only(old)
    names = _flat(overrides, overrides.take("order", list))
    if len(names) != count:
        raise ConfigError(
            f"the config key 'block_overrides.order' describes {len(names)} layers; 'n_layers' is {count}"
        )
    kinds = overrides.section("overrides")
    plans: list[LayerPlan] = []
    for i, name in enumerate(names):
        if name != "default" and name not in kinds.values:
            raise ConfigError(f"the config key 'block_overrides.order' names {name!r}, which 'overrides' does not hold")
        kind = kinds.section(name) if name != "default" else Config({})
        attn = kind.section("attn_config")
        size = attn.take("sliding_window_size", int, default=window)
        back = attn.take("reuse_kv_layer_idx", int, default=None)
        turns = rotary and not attn.take("nope", bool, default=False)
        if unsupported := kind.unknown():
            raise ConfigError(
                f"the config key {unsupported[0]!r} is not supported; "
                "overrides may set sliding_window_size, reuse_kv_layer_idx and nope"
            )
        if back is not None and not -i <= back < 0:
            raise attn.invalid("reuse_kv_layer_idx", f"it must be negative and name a layer before layer {i}")
        source = None if back is None else i + back
        if source is not None and plans[source].source is not None:
            source = plans[source].source  # what that layer uses itself
        plans.append(LayerPlan(_window(attn, size), source, turns))
    return tuple(plans)


def _window(config: Config, size: int) -> int | None:
    if size < -1:
        raise config.invalid("sliding_window_size", "it must be -1 (none) or the number of positions")
    return None if size == -1 else size


def _flat(overrides: Config, order: list[Any]) -> list[str]:
    """The names in the order of the layers: entries may repeat, and nest."""
    names: list[str] = []
    for entry in order:
        if not isinstance(entry, dict):
            raise overrides.invalid("order", "its entries must be objects with 'name' or 'order'")
        repeat = entry.get("repeat", 1)
        if not isinstance(repeat, int) or repeat < 0:
            raise overrides.invalid("order", "'repeat' must be a whole number")
        names += (_flat(overrides, entry["order"]) if "order" in entry else [str(entry.get("name"))]) * repeat
    return names
