"""Products, reductions and normalizations."""

import pytest
import torch

from compiler.errors import TargetError
from compiler.trt_emulator.memory import TORCH_TYPES
from tests.trt_emulator.networks import evaluate

FLOATS = ["FLOAT", "HALF", "BF16"]


def near(result, exact, dtype):
    eps = torch.finfo(TORCH_TYPES[dtype]).eps
    assert result.dtype == TORCH_TYPES[dtype]
    torch.testing.assert_close(
        result.double(), exact.to(TORCH_TYPES[dtype]).double(), rtol=max(eps, 1e-5), atol=1e-5 + eps / 8
    )


def random(dtype, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape))).to(TORCH_TYPES[dtype])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op0", ["NONE", "TRANSPOSE", "VECTOR"])
@pytest.mark.parametrize("op1", ["NONE", "TRANSPOSE", "VECTOR"])
@pytest.mark.parametrize("batch", [(), (2,), (1, 3)])
def test_matrix_multiply(op0, op1, batch, dtype):
    shape_a = {"NONE": (4, 40), "TRANSPOSE": (40, 4), "VECTOR": (40,)}[op0]
    shape_b = {"NONE": (40, 5), "TRANSPOSE": (5, 40), "VECTOR": (40,)}[op1]
    a, b = random(dtype, *batch, *shape_a), random(dtype, *[3 if d == 1 else d for d in batch], *shape_b)
    matrix_a = {"NONE": a, "TRANSPOSE": a.mT if a.ndim > 1 else a, "VECTOR": a.unsqueeze(-2)}[op0]
    matrix_b = {"NONE": b, "TRANSPOSE": b.mT if b.ndim > 1 else b, "VECTOR": b.unsqueeze(-1)}[op1]
    exact = (matrix_a.double()[..., :, :, None] * matrix_b.double()[..., None, :, :]).sum(-2)
    exact = exact.squeeze(-1) if op1 == "VECTOR" else exact
    exact = exact.squeeze(-1 if op1 == "VECTOR" else -2) if op0 == "VECTOR" else exact
    near(evaluate("MATRIX_MULTIPLY", [a, b], dtype, exact.shape, op0=op0, op1=op1), exact, dtype)


@pytest.mark.parametrize("dtype", ["HALF", "BF16"])
@pytest.mark.parametrize("op1", ["NONE", "TRANSPOSE"])
@pytest.mark.parametrize("rows", [1, 7])
def test_products_of_16_bit_floats_accumulate_in_float32_and_round_once(rows, op1, dtype):
    # Every partial sum beyond the first fits float32 and no 16-bit float; sums kept in 16 bits stay at the first term.
    terms = 512
    a = torch.ones(rows, terms, dtype=TORCH_TYPES[dtype])
    b = torch.full((terms, 3), 2.0**-12, dtype=TORCH_TYPES[dtype])
    b[0] = 1
    exact = (1 + (terms - 1) * 2.0**-12) * torch.ones(rows, 3, dtype=torch.float64)
    given = b if op1 == "NONE" else b.T.contiguous()
    result = evaluate("MATRIX_MULTIPLY", [a, given], dtype, (rows, 3), op0="NONE", op1=op1)
    assert torch.equal(result, exact.to(TORCH_TYPES[dtype]))


def test_products_need_stacks_of_one_rank():
    with pytest.raises(TargetError, match="ranks 3 and 2"):
        evaluate("MATRIX_MULTIPLY", [torch.ones(1, 2, 3), torch.ones(3, 2)], "FLOAT", (1, 2, 2), op0="NONE", op1="NONE")


@pytest.mark.parametrize("dtype", FLOATS)
def test_einsum(dtype):
    a, b = random(dtype, 2, 3, 4), random(dtype, 2, 5, 4)
    exact = (a.double()[:, :, None] * b.double()[:, None]).sum(-1).permute(2, 0, 1)
    near(evaluate("EINSUM", [a, b], dtype, (5, 2, 3), equation="bik,bjk->jbi"), exact, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax(axis, dtype):
    x = random(dtype, 2, 3, 5) * 4
    exact = x.double().exp() / x.double().exp().sum(axis, keepdim=True)
    near(evaluate("SOFTMAX", [x], dtype, x.shape, axes=1 << axis), exact, dtype)


REDUCTIONS = {
    "SUM": lambda x: x.sum((0, 2)),
    "PROD": lambda x: x.prod(2).prod(0),
    "MAX": lambda x: x.amax((0, 2)),
    "MIN": lambda x: x.amin((0, 2)),
    "AVG": lambda x: x.mean((0, 2)),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("keep", [True, False])
def test_reduce(op, keep, dtype):
    x = random(dtype, 2, 3, 4)
    exact = REDUCTIONS[op](x.double())
    exact = exact[None, :, None] if keep else exact
    near(evaluate("REDUCE", [x], dtype, exact.shape, op=op, axes=0b101, keep_dims=keep), exact, dtype)


@pytest.mark.parametrize(("op", "wanted"), [("SUM", 8), ("MAX", 7), ("PROD", -42), ("AVG", 2), ("MIN", -2)])
def test_reduce_of_integers(op, wanted):
    x = torch.tensor([[-2, 7, 3]], dtype=torch.int32)
    result = evaluate("REDUCE", [x], "INT32", (1, 1), op=op, axes=0b10, keep_dims=True)
    assert result.dtype == torch.int32 and result.item() == wanted


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axes", [[2], [1, 2]])
def test_normalization(axes, dtype):
    x, scale, bias = random(dtype, 2, 3, 8) + 1, random(dtype, 1, 1, 8), random(dtype, 1, 3, 8)
    wide = x.double()
    centred = wide - wide.mean(axes, keepdim=True)
    exact = centred / ((centred**2).mean(axes, keepdim=True) + 0.01).sqrt() * scale.double() + bias.double()
    mask = sum(1 << axis for axis in axes)
    params = {"axes": mask, "epsilon": 0.01, "num_groups": 1, "is_v2": True}
    near(evaluate("NORMALIZATION", [x, scale, bias], dtype, x.shape, **params), exact, dtype)


@pytest.mark.parametrize(
    ("exclusive", "reverse", "wanted"),
    [(False, False, [1, 3, 6]), (True, False, [0, 1, 3]), (False, True, [6, 5, 3]), (True, True, [5, 3, 0])],
)
@pytest.mark.parametrize("dtype", ["FLOAT", "INT32"])
def test_cumulative(exclusive, reverse, wanted, dtype):
    x = torch.tensor([[1, 2, 3]]).to(TORCH_TYPES[dtype])
    axis = torch.tensor(1, dtype=torch.int32)
    params = {"op": "SUM", "exclusive": exclusive, "reverse": reverse}
    assert evaluate("CUMULATIVE", [x, axis], dtype, (1, 3), constants=[1], **params).tolist() == [wanted]
