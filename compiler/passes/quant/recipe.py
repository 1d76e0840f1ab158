"""Recipes: how linears are quantized. An algorithm is a file in `recipes` that declares one, with its options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, TypeVar

from compiler.errors import PassError
from compiler.ir.graph import Graph
from compiler.ir.mesh import mesh_of
from compiler.options import Formerly, is_frozen
from compiler.plugins import Registry

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


RECIPES = Registry[type[Recipe]]("quant={} exists already", PassError)
"""The recipes by the names of their algorithms."""

Declared = TypeVar("Declared", bound=type[Recipe])


def algorithm(name: str) -> Callable[[Declared], Declared]:
    """Decorator: make a frozen dataclass the recipe of the algorithm `name`, which `quant=name` then uses.

    Raises:
        PassError: if there is one already, it is no such dataclass, or another algorithm has an option of the same name
            and another type.
    """

    def declare(recipe: Declared) -> Declared:
        from compiler.passes.quant.options import joined_options

        if not (isinstance(recipe, type) and issubclass(recipe, Recipe) and is_frozen(recipe)):
            raise PassError(f"the algorithm {name!r} must be a frozen dataclass, a subclass of Recipe")
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
