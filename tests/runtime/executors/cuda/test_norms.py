"""Norms and the sums before them against the interpreter's evaluators. Without a GPU, triton interprets the kernels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import compiler.ir.evaluators.nn  # noqa: F401 - registers them
from compiler.ir.evaluators.core import evaluator
from runtime.executors.cuda.kernels.norms import MOST_ADDED, MOST_NORMS, Affine, add_norm, add_norm_of_rows, norm
from tests.runtime.executors.cuda.attention_cases import DEVICE

EPS = 1e-5


def meaning(kind, x, weight, bias):
    operands = [each for each in (weight, bias) if each is not None]
    return evaluator(kind).compute({"eps": EPS}, {}, x.double(), *[each.double() for each in operands])


def assert_is_norm(normed, kind, x, weight, bias):
    """Against float64: each of mean, square, sum, root, factor and result errs by a unit or two in float32."""
    exact = meaning(kind, x, weight, bias)
    unit = 2.0**-24 * 16
    size = exact.abs() + (0 if bias is None else bias.double().abs())
    rounding = torch.finfo(normed.dtype).eps * size
    largest = size.amax(-1, keepdim=True) * (1 if weight is None else weight.double().abs().amax())
    assert ((normed.double() - exact).abs() <= rounding + unit * (size + largest) + 2.0**-25).all()


@pytest.mark.parametrize("kind", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("width", [1, 24, 1000])
@pytest.mark.parametrize("parameters", [0, 1, 2])
def test_norm(kind, dtype, width, parameters):
    torch.manual_seed(0)
    x = (torch.randn(3, width + 5) * 3 + 1).to(DEVICE, dtype)[:, :width]  # rows that are further apart
    weight = torch.rand(width).to(DEVICE, dtype) + 0.5 if parameters else None
    bias = torch.randn(width).to(DEVICE, dtype) if parameters == 2 and kind == "layer_norm" else None
    other = Affine(None, bias)
    normed, second = norm(x, [Affine(weight, bias), other], EPS, kind)
    assert normed.dtype is dtype and normed.is_contiguous()
    assert_is_norm(normed, kind, x, weight, bias)
    assert_is_norm(second, kind, x, None if bias is None else torch.ones_like(bias), bias)
    (alone,) = norm(x, [Affine(weight, bias)], EPS, kind)
    assert torch.equal(alone, normed)


@st.composite
def sums(draw):
    tokens, width = draw(st.integers(1, 4)), draw(st.integers(1, 70))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    types = st.sampled_from([torch.float32, torch.float16])

    def normal(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=generator).to(DEVICE, dtype)

    parts = draw(st.lists(st.integers(0, 4), max_size=MOST_ADDED))
    added = [
        normal(count, tokens, width) if count else normal(tokens, width + 3, dtype=draw(types))[:, :width]
        for count in parts
    ]
    biases = [normal(width, dtype=draw(types)) for _ in range(draw(st.integers(0, MOST_ADDED)))]
    return normal(tokens, width, dtype=draw(types)), added, biases, normal(width), draw(types)


@given(sums(), st.sampled_from(["layer_norm", "rms_norm"]))
def test_sum_and_its_norm(tensors, kind):
    residual, added, biases, weight, sum_dtype = tensors
    affines = [Affine(weight), Affine(None)]
    total, normed, second = add_norm(residual, added, biases, affines, EPS, kind, sum_dtype=sum_dtype)
    terms = [residual, *[each for x in added for each in (x if x.dim() == 3 else [x])], *biases]
    exact = sum(each.double() for each in terms)
    size = sum(each.double().abs() for each in terms)
    unit = 2.0**-24 * len(terms)
    assert total.dtype is normed.dtype is sum_dtype
    assert (
        (total.double() - exact).abs() <= unit * size + torch.finfo(sum_dtype).eps / 2 * (exact.abs() + unit * size)
    ).all()
    assert_is_norm(normed, kind, total, weight, None)
    assert_is_norm(second, kind, total, None, None)
    rows = torch.tensor([len(total) - 1, 0, 0], dtype=torch.int32, device=DEVICE)
    of_rows = add_norm_of_rows(residual, added, biases, affines, EPS, kind, sum_dtype=sum_dtype, rows=rows)
    assert [torch.equal(each, all_[rows.long()]) for each, all_ in zip(of_rows, (normed, second), strict=True)]


def test_more_than_a_kernel_adds():
    x = torch.zeros(1, 4)
    with pytest.raises(ValueError, match="more than one kernel does"):
        add_norm(x, [x] * (MOST_ADDED + 1), [], [Affine(None)], EPS, "rms_norm", sum_dtype=torch.float32)
    with pytest.raises(ValueError, match="more than one kernel does"):
        norm(x, [Affine(None)] * (MOST_NORMS + 1), EPS, "rms_norm")
