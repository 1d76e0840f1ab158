"""The plug-in layer of products with a stored weight, as data: `y = act(x W^T + b)`.

Its inputs are `x [..., K]`, its scales if it is rounded to 8 bits, the weight's codes, their scales and zero points if
it is quantized, and a bias `[N]` if it has one. Sums are float32's (of integers of 8 bits exact), and the result is
rounded once. Weights are inputs in the order in which kernels read them:

- x: floats of the type of the result, or int8 or float8 like the weight; its scales are float32, `[1]` or `[..., 1]`;
- codes: floats `[N, K]` of the type of `x` (form `dense`), or 8 bits: `[N, K]` (`int8`, `float8`), or int4 as
  `compiler.ir.int4.chunk_int4` lays them out, `[K / chunk, N, chunk / 2]`. Float8 is given as int8 where `x` is
  floats: TensorRT takes no layer that reads both float8 and int8;
- scales: float32 `[K / group, N]`, times `factor`;
- zero points: int8 `[K / group, N]`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

PRODUCT = "llmc::product"
"""The namespace and the name of the plug-in, by which network records call its layers."""
VERSION = "1"
"""The plug-in's version: of another meaning of its attributes or inputs there is another one."""
FORMS = ("dense", "int8", "int4", "float8")
FLOATS = ("FLOAT", "HALF", "BF16")
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu")


@dataclass(frozen=True)
class ProductSpec:
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
        activation: `relu`, `gelu` (by erf), `gelu_tanh`, `silu` or None.
    """

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

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the layer reads, in order."""
        quantized = self.form != "dense"
        rounded = self.rounded is not None
        given = {
            "x": True, "x_scale": rounded, "codes": True, "scale": quantized, "zero": self.zero, "bias": self.bias,
        }  # fmt: skip
        return tuple(name for name, there in given.items() if there)

    @property
    def params(self) -> dict[str, Any]:
        """The properties of the layer in a network record: the attributes, and the plug-in's version."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> ProductSpec:
        """What `params` gave; TypeError or KeyError if they are of something else."""
        return cls(**{name: params[name] for name in cls.__dataclass_fields__})

    @classmethod
    def read(cls, text: str) -> ProductSpec:
        """What `text` gave; ValueError or TypeError if it is of something else."""
        return cls(**json.loads(text))

    @property
    def text(self) -> str:
        """The attributes as JSON: what the plug-in serializes into a plan."""
        return json.dumps(asdict(self), sort_keys=True)
