"""The pass `quant`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import compiler.passes.quant.recipes  # noqa: F401 - declares the algorithms
from compiler.errors import PassError
from compiler.ir.graph import Graph
from compiler.options import REQUIRED, Option
from compiler.passes.quant.linears.head import HEAD_OPTION, Head, quantize_head
from compiler.passes.quant.recipe import RECIPES, Recipe, joined_options, recipe_of, require_one_rank
from compiler.passes.registry import register
from compiler.plugins import blamed


@lru_cache(maxsize=8)
def _options(recipes: tuple[tuple[str, type[Recipe]], ...]) -> tuple[Option, ...]:
    names = tuple(name for name, _ in recipes)
    algorithm = Option("algorithm", Literal[names], REQUIRED, "how values are chosen")
    return (algorithm, *joined_options(dict(recipes)), HEAD_OPTION)


@register("quant")
@dataclass(frozen=True, init=False)
class Quantize:
    """Store the weights of linears in 8 or 4 bits, and with some algorithms multiply in 8 bits.

    `int8`, `int4` and `int3` round weights to the nearest value. `awq` and `gptq` choose weights of few bits by what
    they do to the outputs on calibration data. `smoothquant` and `fp8` quantize activations too. `auto` chooses between
    4, 8 and 16 bits for each layer so that the weights take `bits` on average. The head and embeddings stay as they
    are, unless `only` names the head, or `head=int8` rounds its weights to the nearest of 8 bits whatever the algorithm
    is. Used twice with different patterns, each linear is quantized by the first that takes it.
    """

    algorithm: str
    recipe: Recipe
    head: Head

    def __init__(self, algorithm: str, *, head: Any = "none", **options: Any) -> None:
        """Choose an algorithm, which may be a plug-in's, and its options; those that are None have its defaults.

        `head` is what becomes of the head's weights, whatever the algorithm is.

        Raises:
            PassError: if the algorithm has no such option, or refuses its value, or `head` is none of its choices.
        """
        if head not in HEAD_OPTION.choices:
            raise PassError(f"the option 'head' of quant is {HEAD_OPTION.type_text}, not {head}")
        RECIPES.find(algorithm)  # looks at installed packages, too
        object.__setattr__(self, "algorithm", algorithm)
        object.__setattr__(self, "head", head)
        object.__setattr__(self, "recipe", recipe_of(RECIPES, algorithm, options))

    @classmethod
    def declared_options(cls) -> tuple[Option, ...]:
        """The algorithm, and the options of all algorithms that there are."""
        return _options(tuple(sorted(RECIPES.items())))

    def __getattr__(self, name: str) -> Any:
        """The value of an option; None where that stands for the algorithm's default, or the algorithm has no such."""
        option = next((each for each in self.declared_options() if each.name == name), None)
        if option is None or "recipe" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        value, usual = (getattr(of, name, None) for of in (self.recipe, type(self.recipe)))
        return option.default if value == usual else value

    def __call__(self, graph: Graph) -> Graph:
        """The graph with quantized linears.

        Raises:
            PassError: as the recipe, or if the head is to be quantized and cannot be, or was by the recipe.
        """
        return self._quantized(graph, self.recipe)

    def dry_run(self, graph: Graph) -> Graph:
        """The graph with linears of the same types, whose weights are rounded to the nearest value."""
        with self._blamed():
            recipe = self.recipe.without_data()
        return self._quantized(graph, recipe)

    def _quantized(self, graph: Graph, recipe: Recipe) -> Graph:
        require_one_rank(graph, "quant")
        with self._blamed():
            graph = recipe.quantize(graph)
        return graph if self.head == "none" else quantize_head(graph)

    def _blamed(self) -> Any:
        return blamed(type(self.recipe), f"the algorithm {self.algorithm!r} of quant")
