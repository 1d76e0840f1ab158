"""The options of all algorithms as those of one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from compiler.errors import PassError
from compiler.options.fields import Option, options_of, spell_value
from compiler.passes.quant.recipe import Recipe
from compiler.suggest import did_you_mean

Recipes = Mapping[str, type[Recipe]]


def joined_options(recipes: Recipes) -> list[Option]:
    """The options that any algorithm has, in the order in which they are first met.

    Where defaults differ, or not all algorithms have the option, it is None unless given.

    Raises:
        TypeError: if two algorithms have an option of one name, but of types that are not the same, nor both `Literal`.
    """
    owners: dict[str, dict[str, Option]] = {}
    for algorithm, recipe in recipes.items():
        for option in options_of(recipe):
            owners.setdefault(option.name, {})[algorithm] = option
    return [_joined(name, found, len(found) == len(recipes)) for name, found in owners.items()]


def recipe_of(recipes: Recipes, algorithm: str, given: Mapping[str, Any]) -> Recipe:
    """The recipe of an algorithm with some options; those that are None have the algorithm's defaults.

    Raises:
        PassError: if there is no such algorithm, or it has no such option, or not that value of it.
    """
    if algorithm not in recipes:
        raise PassError(
            f"there is no quant={algorithm}{did_you_mean(algorithm, recipes)}",
            hint=f"algorithms are: {', '.join(sorted(recipes))}",
        )
    known = {option.name: option for option in options_of(recipes[algorithm])}
    renamed = {option.former: option.name for option in known.values() if option.former}
    values = {renamed.get(name, name): value for name, value in given.items() if value is not None}
    for name, value in values.items():
        if name not in known:
            owners = [other for other, recipe in recipes.items() if hasattr(recipe, name)]
            hint = f"it belongs to {', '.join(owners)}" if owners else f"it has: {', '.join(known)}"
            raise PassError(f"quant={algorithm} has no option {name!r}{did_you_mean(name, known)}", hint=hint)
        if get_origin(known[name].type) is Literal and value not in get_args(known[name].type):
            raise PassError(f"the option {name!r} of quant={algorithm} is {known[name].type_text}, not {value}")
    return recipes[algorithm](**values)


def _joined(name: str, owners: Mapping[str, Option], everywhere: bool) -> Option:
    first, *rest = owners.values()
    if everywhere and all(option == first for option in rest):
        return first
    return Option(name, _common_type(list(owners.values())) | None, None, "; ".join(_helps(owners)), first.former)


def _common_type(options: Sequence[Option]) -> Any:
    types = [option.type for option in options]
    if all(get_origin(type_) is Literal for type_ in types):
        return Literal[tuple(dict.fromkeys(choice for type_ in types for choice in get_args(type_)))]
    if any(type_ != types[0] for type_ in types):
        raise TypeError(f"the option {options[0].name!r} has several types: {', '.join(map(str, types))}")
    return types[0]


def _helps(owners: Mapping[str, Option]) -> list[str]:
    """What the option means for whom, and its defaults: `awq, gptq: weights of ... (default 128)`."""
    meanings: dict[str, dict[str, list[str]]] = {}
    for algorithm, option in owners.items():
        default = spell_value(option.type, option.default)
        meanings.setdefault(option.help, {}).setdefault(default, []).append(algorithm)
    texts = []
    for meaning, defaults in meanings.items():
        names = ", ".join(sorted(name for found in defaults.values() for name in found))
        values = [
            value if len(defaults) == 1 else f"{value} for {', '.join(found)}" for value, found in defaults.items()
        ]
        texts.append(f"{names}: {meaning} (default {'; '.join(values)})")
    return texts
