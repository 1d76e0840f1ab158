"""Recipes: how linears are quantized, and the options of all algorithms as those of one pass.

An algorithm is a file in `recipes`, or a plug-in's, that declares a recipe with its options.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from compiler.errors import PassError
from compiler.ir.graph import Graph
from compiler.ir.mesh import mesh_of
from compiler.options import Formerly, Option, is_frozen
from compiler.options.fields import options_of, spell_value
from compiler.plugins import Registry
from compiler.suggest import did_you_mean

Activations = Literal["off", "token", "static"]
"""What is done to the inputs of linears: nothing, a scale for each token, or one scale from calibration."""

# Help texts of options that several algorithms have.
ACT = "scales of activations: for each token, by calibration, or none"
GROUP = "weights of a row that share a scale; 0: all"


@dataclass(frozen=True)
class Recipe(ABC):
    """How linears are quantized. The fields of a subclass are its algorithm's options, with their defaults.

    A field is declared as that of a pass is; fields of one name have one type in all recipes, or are all `Literal`.
    """

    skip: Annotated[tuple[str, ...], "modules to leave alone, such as *.fc2 or layers.0"] = ()
    only: Annotated[tuple[str, ...], "the only modules to quantize"] = ()
    kl_budget: Annotated[
        float | None,
        "the most that it may cost, in nats of KL divergence per token: the costliest linears stay as they are",
        Formerly("limit"),
    ] = None

    algorithm: ClassVar[str]

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            PassError: if a value makes no sense.
        """
        if self.kl_budget is not None and self.kl_budget < 0:
            raise PassError(f"kl_budget={self.kl_budget:g} is no divergence", hint="give one such as kl_budget=0.003")
        group = getattr(self, "group", 0)
        if group < 0:
            raise PassError(f"group={group} is no number of weights", hint="0 stands for a whole row")

    @abstractmethod
    def quantize(self, graph: Graph) -> Graph:
        """The graph with quantized linears."""

    def without_data(self) -> Recipe:
        """A recipe that makes about the same ops, of the same types, and needs no data: a dry run of this one."""
        return replace(self, kl_budget=None)

    def require_bits(self, bits: float, *choices: int) -> None:
        """PassError unless `bits` is one of the choices."""
        if bits not in choices:
            listed = " or ".join(map(str, choices))
            raise PassError(f"quant={self.algorithm} makes weights of {listed} bits, not of {bits:g}")


PASS_OPTIONS = ("algorithm", "head")
"""The options of the pass itself, which no algorithm can have."""

RECIPES = Registry[type[Recipe]]("quant={} exists already", PassError)
"""The recipes by the names of their algorithms."""

Declared = TypeVar("Declared", bound=type[Recipe])


def algorithm(name: str) -> Callable[[Declared], Declared]:
    """Decorator: make a frozen dataclass the recipe of the algorithm `name`, which `quant=name` then uses.

    Raises:
        PassError: if there is one already, it is no such dataclass, or another algorithm, or the pass itself, has an
            option of the same name and another type.
    """

    def declare(recipe: Declared) -> Declared:
        if not (isinstance(recipe, type) and issubclass(recipe, Recipe) and is_frozen(recipe)):
            raise PassError(f"the algorithm {name!r} must be a frozen dataclass, a subclass of Recipe")
        for field in fields(recipe):
            if field.name in PASS_OPTIONS:
                raise PassError(f"the option {field.name!r} is one of quant itself", hint="give the field another name")
        recipe.algorithm = name
        try:
            joined_options({**RECIPES, name: recipe})
        except TypeError as error:
            raise PassError(str(error), hint="give the field another name") from None
        RECIPES.add(name, recipe, recipe)
        return recipe

    return declare


def require_one_rank(graph: Graph, name: str) -> None:
    """PassError if a graph is for several ranks already: calibration runs the whole model."""
    mesh = mesh_of(graph)
    if mesh.size > 1:
        raise PassError(
            f"{name} comes before tp and pp: the graph is for {mesh} already",
            hint=f"write the passes in the order {name}=...,tp=...,pp=...",
        )


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
