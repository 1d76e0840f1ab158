"""The plug-in layer of products with a stored weight, as data: `y = act(x W^T + b)`.

Its inputs are `x [..., K]`, its scales if it is rounded to 8 bits, the weight's codes, their scales and zero points if
it is quantized, and a bias `[N]` if it has one. Sums are float32's (of integers of 8 bits exact), and the result is
rounded once.

A layer may stand for several linears: of one input, whose results lie beside each other as sections `[..., N]`, each
with an activation of its own; or of two inputs, whose results are added up, `x` being the columns of both, one behind
the other. Floats of an input may be some columns of a wider tensor, such as a section of another layer's result.

Weights are inputs in the order in which kernels read them:

- x: floats of the type of the result, or int8 or float8 like the weight; its scales are float32, `[1]` or `[..., 1]`;
- codes: floats `[N, K]` of the type of `x` (form `dense`), or 8 bits: `[N, K]` (`int8`, `float8`), or int4 as
  `compiler.ir.int4.chunk_int4` lays them out, `[K / chunk, N, chunk / 2]`. Float8 is given as int8 where `x` is
  floats: TensorRT takes no layer that reads both float8 and int8;
- scales: float32 `[K / group, N]`, times `factor`;
- zero points: int8 `[K / group, N]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compiler.trt_network.plugin_spec import FLOATS, PluginSpec, Result

__all__ = ["ACTIVATIONS", "FLOATS", "FORMS", "PRODUCT", "ProductSpec"]

PRODUCT = "llmc::product"
"""The namespace and the name of the plug-in, by which network records call its layers."""
FORMS = ("dense", "int8", "int4", "float8")
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu")


@dataclass(frozen=True)
class ProductSpec(PluginSpec):
    """What a layer of products computes.

    Attributes:
        form: how the weight is stored: `dense`, `int8`, `int4` or `float8`.
        rows: N, the columns of the result.
        columns: K.
        group: how many columns share a scale; 0 of a dense weight.
        chunk: how many columns of int4 lie together; 0 of other forms.
        factor: what the scales were multiplied by; kernels read float8 as so much less.
        zero: whether there are zero points.
        bias: whether there is a bias.
        rounded: the type of the result, by TensorRT's name of it, where `x` is rounded to the 8 bits that the weight
            has; None where `x` is floats, whose type the result has.
        activation: `relu`, `gelu` (by erf), `gelu_tanh`, `silu` or None; None, too, where there are sections.
        sections: the size and the activation of each section, if there are several.
        widths: the columns of each input, if there are two.
        starts: the first column of its tensor that each input is, if it is not 0 for all.
        whole: of two inputs, whether all columns of either share a scale, and there are no zero points.
    """

    plugin: ClassVar[str] = PRODUCT
    version: ClassVar[str] = "1"

    form: str
    rows: int
    columns: int
    group: int = 0
    chunk: int = 0
    factor: float = 1.0
    zero: bool = False
    bias: bool = False
    activation: str | None = None
    rounded: str | None = None
    sections: tuple[tuple[int, str | None], ...] = ()
    widths: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    whole: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `PluginSpec.inputs`."""
        quantized = self.form != "dense"
        rounded = self.rounded is not None
        second = len(self.widths) > 1
        given = {
            "x": True, "x_scale": rounded, "x1": second, "x1_scale": second and rounded,
            "codes": True, "scale": quantized, "zero": self.zero, "bias": self.bias,
        }  # fmt: skip
        return tuple(name for name, there in given.items() if there)

    @property
    def parts(self) -> tuple[tuple[int, str | None], ...]:
        """The size and the activation of each section; of all columns if there is only one."""
        return self.sections or ((self.rows, self.activation),)

    @property
    def columns_read(self) -> tuple[slice, ...]:
        """Which columns of the tensor of each input are the input."""
        widths = self.widths or (self.columns,)
        return tuple(slice(at, at + width) for at, width in zip(self.starts or (0,) * len(widths), widths, strict=True))

    @property
    def results(self) -> tuple[Result, ...]:
        """See `PluginSpec.results`."""
        return (Result(0, self.rows),)

    def types(self, first: str) -> tuple[str, ...]:
        """See `PluginSpec.types`; floats of 16 bits if `first` is none that there are products of."""
        if self.rounded:
            x = codes = "FP8" if self.form == "float8" else "INT8"
            result = self.rounded
        else:
            x = result = first if first in FLOATS else "HALF"
            codes = x if self.form == "dense" else "INT8"
        own = {"x": x, "x1": x, "codes": codes, "zero": "INT8", "bias": result}
        return (*(own.get(name, "FLOAT") for name in self.inputs), result)
