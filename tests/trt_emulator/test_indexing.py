"""Slices, gathers and scatters."""

import pytest
import torch

from compiler.errors import TargetError
from compiler.trt_emulator.memory import TORCH_TYPES
from tests.trt_emulator.networks import evaluate


def cut(start, shape, stride, mode="STRICT_BOUNDS", axes=None):
    return {"start": start, "shape": shape, "stride": stride, "mode": mode, "axes": axes}


@pytest.mark.parametrize("dtype", ["FLOAT", "HALF", "INT32", "BOOL"])
@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        (cut([0, 0], [2, 5], [1, 1]), lambda x: x[:2]),
        (cut([1, 1], [2, 2], [1, 3]), lambda x: x[1:3, 1::3]),
        (cut([3, 4], [4, 3], [-1, -2]), lambda x: x.flip(0, 1)[:, ::2]),
        (cut([0, 2], [4, 0], [1, 1]), lambda x: x[:, :0]),
        (cut([2], [2], [1], axes=[1]), lambda x: x[:, 2:4]),
        (cut([1], [2], [2], axes=[-2]), lambda x: x[1::2]),
    ],
)
def test_slice(params, wanted, dtype):
    x = torch.arange(20).remainder(6).reshape(4, 5).to(TORCH_TYPES[dtype])
    exact = wanted(x)
    assert torch.equal(evaluate("SLICE", [x], dtype, exact.shape, **params), exact)


def test_slice_takes_dims_from_its_inputs():
    x = torch.arange(20.0).reshape(4, 5)
    dims = [torch.tensor(v, dtype=torch.int32) for v in ([1, 0], [3, 2], [1, 2])]
    result = evaluate("SLICE", [x, *dims], "FLOAT", (3, 2), constants=[1, 2, 3], **cut(None, None, None))
    assert torch.equal(result, x[1:, :3:2])


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("WRAP", [1, 2, 0, 1, 2, 0, 1, 2, 0]),
        ("CLAMP", [0, 0, 0, 1, 2, 2, 2, 2, 2]),
        ("REFLECT", [2, 1, 0, 1, 2, 1, 0, 1, 2]),
        ("FILL", [9, 9, 0, 1, 2, 9, 9, 9, 9]),
    ],
)
def test_slice_out_of_bounds(mode, wanted):
    inputs = [torch.tensor([0, 1, 2]), *([None] * 3 + [torch.tensor(9)] if mode == "FILL" else [])]
    assert evaluate("SLICE", inputs, "INT64", (9,), **cut([-2], [9], [1], mode)).tolist() == wanted


def test_slice_fills_with_zero_unless_told():
    x = torch.ones(2, 2)
    assert evaluate("SLICE", [x], "FLOAT", (3, 3), **cut([0, -1], [3, 3], [1, 1], "FILL")).tolist() == [
        [0, 1, 1],
        [0, 1, 1],
        [0, 0, 0],
    ]


def test_strict_bounds():
    with pytest.raises(TargetError, match=r"\(SLICE\) takes elements 1 to 3 of axis 0, which has 3"):
        evaluate("SLICE", [torch.ones(3)], "FLOAT", (3,), **cut([1], [3], [1]))


def pick(mode, axis=0, batch=0):
    return {"mode": mode, "axis": axis, "num_elementwise_dims": batch}


@pytest.mark.parametrize("index_type", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", ["FLOAT", "BF16", "INT32"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather(axis, dtype, index_type):
    x = torch.arange(24).reshape(4, 3, 2).to(TORCH_TYPES[dtype])
    index = torch.tensor([[1, 0], [0, 1]], dtype=index_type)
    exact = x[(slice(None),) * (axis % 3) + (index.long(),)]
    assert torch.equal(evaluate("GATHER", [x, index], dtype, exact.shape, **pick("DEFAULT", axis)), exact)


def test_gather_by_a_scalar_drops_the_axis():
    x = torch.arange(6.0).reshape(3, 2)
    assert evaluate("GATHER", [x, torch.tensor(2)], "FLOAT", (2,), **pick("DEFAULT")).tolist() == [4, 5]


def test_gather_row_by_row():
    x, index = torch.arange(24.0).reshape(2, 4, 3), torch.tensor([[3, 0], [1, 1]])
    exact = torch.stack([x[0, [3, 0]], x[1, [1, 1]]])
    assert torch.equal(evaluate("GATHER", [x, index], "FLOAT", (2, 2, 3), **pick("DEFAULT", 1, 1)), exact)


def test_gather_elements():
    x, index = torch.arange(6.0).reshape(2, 3), torch.tensor([[2, 0, 1], [1, 1, 0]])
    result = evaluate("GATHER", [x, index], "FLOAT", (2, 3), **pick("ELEMENT", 1))
    assert result.tolist() == [[2, 0, 1], [4, 4, 3]]


def test_gather_nd():
    x = torch.arange(24.0).reshape(2, 3, 4)
    assert evaluate("GATHER", [x, torch.tensor([[1, 2], [0, 1]])], "FLOAT", (2, 4), **pick("ND")).tolist() == [
        x[1, 2].tolist(),
        x[0, 1].tolist(),
    ]
    rows = torch.tensor([[[2], [0]], [[1], [1]]])
    exact = torch.stack([x[0, [2, 0]], x[1, [1, 1]]])
    assert torch.equal(evaluate("GATHER", [x, rows], "FLOAT", (2, 2, 4), **pick("ND", batch=1)), exact)


@pytest.mark.parametrize("mode", ["DEFAULT", "ELEMENT"])
@pytest.mark.parametrize("index", [-1, 3])
def test_indices_out_of_range(mode, index):
    with pytest.raises(TargetError, match=r"\(GATHER\) has indices from .* into a dimension of 3"):
        evaluate("GATHER", [torch.ones(3), torch.tensor([index])], "FLOAT", (1,), **pick(mode))


def test_scatter_elements():
    x, index = torch.zeros(2, 3), torch.tensor([[2], [0]])
    result = evaluate("SCATTER", [x, index, torch.tensor([[7.0], [8.0]])], "FLOAT", (2, 3), mode="ELEMENT", axis=1)
    assert result.tolist() == [[0, 0, 7], [8, 0, 0]]


def test_scatter_nd_leaves_its_input_alone():
    x, index = torch.zeros(2, 3), torch.tensor([[1]])
    result = evaluate("SCATTER", [x, index, torch.tensor([[1.0, 2.0, 3.0]])], "FLOAT", (2, 3), mode="ND", axis=0)
    assert result.tolist() == [[0, 0, 0], [1, 2, 3]] and x.sum() == 0
