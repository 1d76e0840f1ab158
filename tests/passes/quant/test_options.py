"""The options of all algorithms as those of one pass."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import pytest

from compiler.passes.quant import Quantize, Recipe
from compiler.passes.quant.options import joined_options, recipe_of
from compiler.passes.quant.recipe import RECIPES
from compiler.passes.registry import find_pass


@dataclass(frozen=True)
class One(Recipe):
    size: Annotated[int, "how large"] = 3
    kind: Annotated[Literal["a", "b"], "which"] = "a"

    def quantize(self, graph):
        return graph


@dataclass(frozen=True)
class Two(Recipe):
    size: Annotated[int, "how large"] = 5
    kind: Annotated[Literal["b", "c"], "which one"] = "c"
    far: Annotated[bool, "whether it is far"] = False

    def quantize(self, graph):
        return graph


def test_an_algorithm_declares_its_options():
    joined = joined_options({"one": One, "two": Two})
    types = {name: get_args(type_) for name, (type_, _) in joined.items()}
    assert types["size"] == (int | None, "one, two: how large (default 3 for one; 5 for two)")
    assert types["kind"] == (Literal["a", "b", "c"] | None, "one: which (default a); two: which one (default c)")
    assert types["far"] == (bool | None, "two: whether it is far (default false)")
    assert joined["skip"][1] == () and joined["size"][1] is None


def test_what_is_not_given_is_the_algorithms_own():
    recipes: dict[str, type[Recipe]] = {"one": One, "two": Two}
    assert recipe_of(recipes, "two", {"size": None, "far": True, "skip": ("x",)}) == Two(skip=("x",), far=True)
    assert recipe_of(recipes, "one", {"size": 0}) == One(size=0)


def test_options_of_one_name_have_one_type():
    @dataclass(frozen=True)
    class Other(Recipe):
        size: str = ""

        def quantize(self, graph):
            return graph

    with pytest.raises(TypeError, match="'size' has several types"):
        joined_options({"one": One, "other": Other})


@pytest.mark.parametrize("name", RECIPES)
def test_every_algorithm_has_its_options_in_the_pass(name):
    recipe = RECIPES[name]()
    assert Quantize(name).recipe == recipe and recipe.algorithm == name
    (algorithm, *options) = find_pass("quant").options
    assert name in algorithm.type_text
    assert {option.name for option in options} >= vars(recipe).keys()
