"""The options of all algorithms as those of one pass."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from compiler.errors import PassError, PluginError
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.passes import canonical, parse_pipeline, run_pipeline
from compiler.passes.quant import Quantize, Recipe
from compiler.passes.quant.recipe import RECIPES, algorithm, joined_options, recipe_of
from compiler.passes.registry import find_pass
from tests.registrations import forgotten


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
    joined = {option.name: option for option in joined_options({"one": One, "two": Two})}
    types = {name: (option.type, option.help) for name, option in joined.items()}
    assert types["size"] == (int | None, "one, two: how large (default 3 for one; 5 for two)")
    assert types["kind"] == (Literal["a", "b", "c"] | None, "one: which (default a); two: which one (default c)")
    assert types["far"] == (bool | None, "two: whether it is far (default false)")
    assert joined["skip"].default == () and joined["size"].default is None


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


def test_an_algorithm_of_a_plug_in_is_as_good_as_others():
    with forgotten():
        algorithm("two")(Two)
        (quantize,) = parse_pipeline("quant=two:far:skip=x")
        assert isinstance(quantize, Quantize)
        assert quantize.recipe == Two(skip=("x",), far=True)
        assert canonical([quantize]) == "quant=two:skip=x:far"
        assert quantize == Quantize("two", far=True, skip=("x",), size=None) != Quantize("two")
        assert (quantize.size, quantize.far, quantize.skip, quantize.bits) == (None, True, ("x",), None)
        assert "two: whether it is far" in next(o.help for o in find_pass("quant").options if o.name == "far")
    with pytest.raises(PassError, match="'algorithm' of 'quant' is one of"):
        parse_pipeline("quant=two")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("awk", {}, "there is no quant=awk; did you mean 'awq'?\nhint: algorithms are: auto, awq, fp8"),
        ("awq", {"grup": 1}, "quant=awq has no option 'grup'; did you mean 'group'?\nhint: it has: skip, only"),
        ("int8", {"bits": 4}, "quant=int8 has no option 'bits'\nhint: it belongs to "),
    ],
)
def test_other_algorithms_and_options_are_refused(name, options, said):
    with pytest.raises(PassError) as caught:
        Quantize(name, **options)
    assert said in str(caught.value)


def test_algorithms_that_cannot_be_are_refused():
    @dataclass(frozen=True)
    class Other(Recipe):
        group: str = ""

        def quantize(self, graph):
            return graph

    @dataclass(frozen=True)
    class OfThePass(Recipe):
        head: int = 0

        def quantize(self, graph):
            return graph

    class NoDataclass(Recipe):
        def quantize(self, graph):
            return graph

    refused = (
        (Other, "'group' has several types"),
        (OfThePass, "the option 'head' is one of quant itself"),
        (NoDataclass, "'odd' must be a frozen dataclass"),
    )
    with forgotten():
        for recipe, said in refused:
            with pytest.raises(PassError, match=said):
                algorithm("odd")(recipe)
        with pytest.raises(PassError, match="quant=awq exists already"):
            algorithm("awq")(Two)


def test_a_mistake_in_an_algorithm_is_its_own():
    @dataclass(frozen=True)
    class Faulty(Recipe):
        def quantize(self, graph):
            return graph.nothing

    b = Builder()
    b.output("y", b.input("x", DType.f32, 2))
    with forgotten():
        algorithm("faulty")(Faulty)
        with pytest.raises(PluginError, match=r"the algorithm 'faulty' of quant .*test_recipe\.py, line \d+"):
            run_pipeline(b.build(), "quant=faulty")
