"""The pass `quant`."""

from __future__ import annotations

from dataclasses import field, fields, make_dataclass
from typing import Annotated, Any, Literal

import compiler.passes.quant.recipes  # noqa: F401 - declares the algorithms
from compiler.ir.graph import Graph
from compiler.passes.quant.options import joined_options, recipe_of
from compiler.passes.quant.recipe import RECIPES, Recipe, require_one_rank
from compiler.passes.registry import register


class _Quantize:
    """Store the weights of linears in 8 or 4 bits, and with some algorithms multiply in 8 bits.

    `int8`, `int4` and `int3` round weights to the nearest value. `awq` and `gptq` choose weights of few bits by what
    they do to the outputs on calibration data. `smoothquant` and `fp8` quantize activations too. `auto` chooses between
    4, 8 and 16 bits for each layer so that the weights take `bits` on average. The head and embeddings stay as they
    are, unless `only` names the head. Used twice with different patterns, each linear is quantized by the first that
    takes it.
    """

    algorithm: str

    def __post_init__(self) -> None:
        _ = self.recipe  # refuses options that the algorithm has not

    @property
    def recipe(self) -> Recipe:
        """The options with the algorithm's defaults."""
        given = {option.name: getattr(self, option.name) for option in fields(self)[1:]}  # type: ignore[arg-type]
        return recipe_of(RECIPES, self.algorithm, given)

    def __call__(self, graph: Graph) -> Graph:
        """The graph with quantized linears."""
        require_one_rank(graph, "quant")
        return self.recipe.quantize(graph)

    def dry_run(self, graph: Graph) -> Graph:
        """The graph with linears of the same types, whose weights are rounded to the nearest value."""
        require_one_rank(graph, "quant")
        return self.recipe.without_data().quantize(graph)


def _pass() -> Any:
    """The pass as a dataclass whose fields are the options of all algorithms."""
    recipes = dict(sorted(RECIPES.items()))
    algorithm = ("algorithm", Annotated[Literal[tuple(recipes)], "how values are chosen"])
    options = [(name, type_, field(default=default)) for name, (type_, default) in joined_options(recipes).items()]
    names = {"__module__": __name__, "__doc__": _Quantize.__doc__}
    return make_dataclass("Quantize", [algorithm, *options], bases=(_Quantize,), frozen=True, namespace=names)


Quantize = register("quant")(_pass())
