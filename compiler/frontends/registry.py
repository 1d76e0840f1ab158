"""Which frontend reads which family of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from compiler.errors import ConfigError
from compiler.frontends.lifting import Lifting
from compiler.ir.frozen import EMPTY
from compiler.plugins import Registry, broken_hint, load_installed

Frontend = Callable[[Lifting], None]


class Family(NamedTuple):
    """A family of models.

    Attributes:
        name: its `model_type`.
        architectures: the spellings of its class.
        lift: the function that lifts it.
        special_tokens: the ids of `bos`, `eos` and `pad` where a config leaves them out.
    """

    name: str
    architectures: tuple[str, ...]
    lift: Frontend
    special_tokens: Mapping[str, int]


FAMILIES = Registry[Family]("model_type {!r} has a frontend already", ConfigError)
"""The families, by their `model_type`."""


def frontend(
    model_type: str, *architectures: str, special_tokens: Mapping[str, int] = EMPTY
) -> Callable[[Frontend], Frontend]:
    """Decorator: the function lifts checkpoints of that `model_type` (or, if they give none, of those classes).

    Args:
        model_type: what `config.json` says.
        architectures: the classes of the family.
        special_tokens: the ids of `bos`, `eos` and `pad` that a config means by leaving them out.

    Raises:
        ConfigError: if another function does already.
    """

    def register(lift: Frontend) -> Frontend:
        FAMILIES.add(model_type, Family(model_type, architectures, lift, special_tokens), lift)
        return lift

    return register


def families() -> tuple[str, ...]:
    """The supported values of `model_type`."""
    load_installed()
    return tuple(sorted(FAMILIES))


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that a config belongs to.

    Raises:
        ConfigError: listing the supported ones, if it is none of them.
    """
    supported = f"supported: {', '.join(families())}"
    hint = broken_hint("a family of your own is a plug-in: --plugin FILE.py, or a package (docs/frontends.md)")
    model_type = config.get("model_type")
    if model_type:
        if model_type not in FAMILIES:
            raise ConfigError(
                f"the config key 'model_type' is {model_type!r}, which is not supported; {supported}", hint=hint
            )
        return FAMILIES[model_type]
    architectures = config.get("architectures") or []
    for family in FAMILIES.values():
        if set(family.architectures) & set(architectures):
            return family
    raise ConfigError(
        f"the config has no 'model_type', and its 'architectures' {architectures} tell none; {supported}", hint=hint
    )
