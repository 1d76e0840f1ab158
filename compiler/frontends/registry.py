"""Which frontend reads which family of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from compiler.errors import ConfigError
from compiler.frontends.lifting import Lifting

Frontend = Callable[[Lifting], None]


class Family(NamedTuple):
    """A family of models: its `model_type`, the spellings of its class, and the function that lifts it."""

    name: str
    architectures: tuple[str, ...]
    lift: Frontend


_FAMILIES: dict[str, Family] = {}


def frontend(model_type: str, *architectures: str) -> Callable[[Frontend], Frontend]:
    """Decorator: the function lifts checkpoints of that `model_type` (or, if they give none, of those classes)."""

    def register(lift: Frontend) -> Frontend:
        known = _FAMILIES.get(model_type)
        if known and known.lift.__module__ != lift.__module__:
            raise ConfigError(f"model_type {model_type!r} has a frontend already, in {known.lift.__module__}")
        _FAMILIES[model_type] = Family(model_type, architectures, lift)
        return lift

    return register


def families() -> tuple[str, ...]:
    """The supported values of `model_type`."""
    return tuple(sorted(_FAMILIES))


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that a config belongs to.

    Raises:
        ConfigError: listing the supported ones, if it is none of them.
    """
    supported = f"supported: {', '.join(families())}"
    model_type = config.get("model_type")
    if model_type:
        if model_type not in _FAMILIES:
            raise ConfigError(f"the config key 'model_type' is {model_type!r}, which is not supported; {supported}")
        return _FAMILIES[model_type]
    architectures = config.get("architectures") or []
    for family in _FAMILIES.values():
        if set(family.architectures) & set(architectures):
            return family
    raise ConfigError(f"the config has no 'model_type', and its 'architectures' {architectures} tell none; {supported}")
