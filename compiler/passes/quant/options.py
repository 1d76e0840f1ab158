"""The options of all algorithms as those of one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

from compiler.errors import PassError
from compiler.options.fields import Option, options_of, spell_value
from compiler.passes.quant.recipe import Recipe

Recipes = Mapping[str, type[Recipe]]


def joined_options(recipes: Recipes) -> dict[str, tuple[Any, Any]]:
    """The type, with a help text, and the default of each option that any algorithm has, by its name.

    Where defaults differ, or not all algorithms have the option, it is None unless given.
    """
    owners: dict[str, dict[str, Option]] = {}
    for algorithm, recipe in recipes.items():
        for option in options_of(recipe):
            owners.setdefault(option.name, {})[algorithm] = option
    return {name: _joined(found, len(found) == len(recipes)) for name, found in owners.items()}


def recipe_of(recipes: Recipes, algorithm: str, given: Mapping[str, Any]) -> Recipe:
    """The recipe of an algorithm with some options; those that are None have the algorithm's defaults.

    Raises:
        PassError: if the algorithm has no such option, or not that value of it.
    """
    known = {option.name: option for option in options_of(recipes[algorithm])}
    values = {name: value for name, value in given.items() if value is not None}
    for name, value in values.items():
        if name not in known:
            owners = [other for other, recipe in recipes.items() if hasattr(recipe, name)]
            raise PassError(f"quant={algorithm} has no option {name!r}", hint=f"it belongs to {', '.join(owners)}")
        if get_origin(known[name].type) is Literal and value not in get_args(known[name].type):
            raise PassError(f"the option {name!r} of quant={algorithm} is {known[name].type_text}, not {value}")
    return recipes[algorithm](**values)


def _joined(owners: Mapping[str, Option], everywhere: bool) -> tuple[Any, Any]:
    first, *rest = owners.values()
    if everywhere and all(option == first for option in rest):
        return Annotated[first.type, first.help], first.default
    type_ = _common_type(list(owners.values()))
    return Annotated[type_ | None, "; ".join(_helps(owners))], None


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
