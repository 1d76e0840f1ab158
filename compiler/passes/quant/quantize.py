"""The pass `quant`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Annotated

from compiler.errors import PassError
from compiler.ir.graph import Graph
from compiler.passes.quant.calibration import current_calibration, find_calibration
from compiler.passes.quant.fidelity import measure_rounding
from compiler.passes.quant.recipe import Activations, Algorithm, Recipe, WeightScales, require_one_rank
from compiler.passes.quant.rtn import quantize_rtn
from compiler.passes.registry import register

# What is taken where an option is not given.
_BITS = {"int8": 8.0, "int4": 4.0, "awq": 4.0, "gptq": 4.0, "smoothquant": 8.0, "fp8": 8.0, "auto": 4.5}
_CHOICES = {"gptq": (3, 4, 8)}
_GROUPS = {"awq": 128, "gptq": 128}
_ACTIVATIONS = {"smoothquant": "token", "fp8": "static"}

# Options that only some algorithms have.
_OWN = {
    "alpha": ("smoothquant",),
    "search": ("smoothquant",),
    "damping": ("gptq",),
    "order": ("gptq",),
    "weights": ("fp8",),
    "act": ("int8", "smoothquant", "fp8"),
    "bits": ("gptq", "auto"),
    "group": ("int8", "int4", "awq", "gptq", "auto"),
}


@register("quant")
@dataclass(frozen=True)
class Quantize:
    """Store the weights of linears in 8 or 4 bits, and with some algorithms multiply in 8 bits.

    `int8` and `int4` round weights to the nearest value. `awq` and `gptq` choose 4-bit weights by what they do to the
    outputs on calibration data. `smoothquant` and `fp8` quantize activations too. `auto` picks one of them for each
    layer so that the weights take `bits` on average. The head and embeddings stay as they are, unless `only` names the
    head. Used twice with different patterns, each linear is quantized by the first that takes it.
    """

    algorithm: Annotated[Algorithm, "how values are chosen"]
    group: Annotated[int | None, "weights of a row that share a scale; 0: all (default: 128 for awq and gptq)"] = None
    bits: Annotated[float | None, "gptq: 3, 4 or 8 bits a weight; auto: the average"] = None
    skip: Annotated[tuple[str, ...], "modules to leave alone, such as *.fc2 or layers.0"] = ()
    only: Annotated[tuple[str, ...], "the only modules to quantize"] = ()
    act: Annotated[Activations | None, "scales of activations: for each token, by calibration, or none"] = None
    weights: Annotated[WeightScales | None, "fp8: a scale for each weight, or for each of its output channels"] = None
    alpha: Annotated[float | None, "smoothquant: the part of outliers that weights take over (default: 0.5)"] = None
    search: Annotated[bool | None, "smoothquant: search alpha for each layer"] = None
    damping: Annotated[float | None, "gptq: added to the Hessian, as a part of its mean"] = None
    order: Annotated[bool | None, "gptq: the columns with the largest activations first"] = None

    def __post_init__(self) -> None:
        for option, algorithms in _OWN.items():
            value = getattr(self, option)
            if value is not None and self.algorithm not in algorithms:
                raise PassError(
                    f"quant={self.algorithm} has no option {option!r}", hint=f"it belongs to {', '.join(algorithms)}"
                )
        choices = _CHOICES.get(self.algorithm)
        if self.bits is not None and choices and self.bits not in choices:
            raise PassError(f"quant={self.algorithm} makes weights of {_listed(choices)} bits, not of {self.bits:g}")
        if self.group is not None and self.group < 0:
            raise PassError(f"group={self.group} is no number of weights", hint="0 stands for a whole row")

    @property
    def recipe(self) -> Recipe:
        """The options with the algorithm's defaults."""
        defaults = Recipe(self.algorithm)
        return Recipe(
            algorithm=self.algorithm,
            bits=_BITS[self.algorithm] if self.bits is None else self.bits,
            group=_GROUPS.get(self.algorithm, 0) if self.group is None else self.group,
            skip=self.skip,
            only=self.only,
            act=self.act or _ACTIVATIONS.get(self.algorithm, "off"),  # type: ignore[arg-type]
            weights=self.weights or "tensor",
            alpha=None if self.search else defaults.alpha if self.alpha is None else self.alpha,
            damping=defaults.damping if self.damping is None else self.damping,
            order=defaults.order if self.order is None else self.order,
        )

    def __call__(self, graph: Graph) -> Graph:
        """The graph with quantized linears."""
        require_one_rank(graph, "quant")
        recipe = self.recipe
        if recipe.algorithm in ("int8", "int4", "fp8") and recipe.act != "static":
            if calibration := find_calibration():
                measure_rounding(graph, recipe, calibration)
            return quantize_rtn(graph, recipe)
        module = import_module(f"compiler.passes.quant.{_module(recipe)}")
        quantized: Graph = getattr(module, f"quantize_{_module(recipe)}")(graph, recipe, current_calibration())
        return quantized


def _module(recipe: Recipe) -> str:
    """The module of an algorithm that needs calibration."""
    return "static" if recipe.algorithm in ("int8", "int4", "fp8") else recipe.algorithm


def _listed(numbers: tuple[int, ...]) -> str:
    return " or ".join(map(str, numbers))
