"""Decoding of blocks as GGUF stores them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from compiler.errors import GraphError
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.interpreter import Interpreter
from compiler.ir.ops.unpack import BLOCKS

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")

EXACT = [name for name, found in BLOCKS.items() if found.bits]


def decoded(x: Tensor, form: str, part: str = "values") -> Tensor:
    """What the op gives."""
    b = Builder()
    b.output("y", b.decode_blocks(b.input("x", DType.u8, *x.shape), format=form, part=part))
    return Interpreter(b.build())({"x": x})["y"]


def random_blocks(form: str, seed: int, rows: int = 3, count: int = 4) -> Tensor:
    """Blocks of random bytes, whose scales are ordinary numbers of either sign."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, count, BLOCKS[form].nbytes)
    x = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    places = {"q2_k": (80, 82), "q3_k": (108,), "q6_k": (208,), "q4_k": (0, 2), "q5_k": (0, 2)}.get(form, (0, 2))
    for place in places[: 1 if form in ("q4_0", "q5_0", "q8_0") else 2]:
        numbers = torch.randn(rows, count, 1, generator=generator).half()
        x[..., place : place + 2] = (numbers.abs() if form == "q8_0" else numbers).view(torch.uint8)
    return x.flatten(1)


@pytest.mark.parametrize("form", BLOCKS)
def test_values_are_those_of_the_package_gguf(form: str) -> None:
    x = random_blocks(form, seed=len(form))
    expected = gguf.quants.dequantize(x.numpy(), gguf.GGMLQuantizationType[form.upper()])
    assert np.array_equal(decoded(x, form).numpy(), expected)


@pytest.mark.parametrize("form", EXACT)
def test_integers_and_scales_are_the_values(form: str) -> None:
    """Bit for bit, although every scale is positive."""
    x = random_blocks(form, seed=1)
    integers, scales = decoded(x, form, "integers").float(), decoded(x, form, "scales")
    if BLOCKS[form].bits == 4:
        integers = integers - decoded(x, form, "zeros").float().repeat_interleave(BLOCKS[form].group, 1)
    assert (scales > 0).all()
    assert torch.equal(integers * scales.repeat_interleave(BLOCKS[form].group, 1), decoded(x, form))


@pytest.mark.parametrize("form", EXACT)
def test_blocks_without_a_scale_are_zeros(form: str) -> None:
    x = torch.full((1, BLOCKS[form].nbytes), 255, dtype=torch.uint8)
    place = {"q3_k": 108, "q6_k": 208}.get(form, 0)
    x[:, place : place + 2] = 0
    assert (decoded(x, form, "scales") == 1).all()
    assert not decoded(x, form, "integers").any()


def test_types_are_checked() -> None:
    b = Builder()
    x = b.input("x", DType.u8, 2, 18)
    assert b.decode_blocks(x, format="q4_0", part="integers").type.dtype is DType.i4
    for attrs, message in [
        ({"format": "q9"}, "formats are"),
        ({"format": "q8_0"}, "not in blocks of 34 bytes"),
        ({"format": "q4_0", "part": "bits"}, "it may be values, integers, scales, zeros"),
    ]:
        with pytest.raises(GraphError, match=message):
            b.decode_blocks(x, **attrs)
    with pytest.raises(GraphError, match="blocks are bytes"):
        b.decode_blocks(b.input("y", DType.i8, 18), format="q4_0")
