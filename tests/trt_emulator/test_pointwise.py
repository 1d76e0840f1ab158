"""Each element-by-element layer against an independent computation in float64."""

import math
from collections.abc import Callable

import pytest
import torch

from compiler.errors import TargetError
from compiler.trt_emulator.memory import TORCH_TYPES
from tests.trt_emulator.networks import evaluate

FLOATS = ["FLOAT", "HALF", "BF16"]


def near(result, exact, dtype):
    """Whether a result is the exact one rounded once, up to float32's own error before that."""
    wanted = exact.to(TORCH_TYPES[dtype])
    eps = torch.finfo(TORCH_TYPES[dtype]).eps
    torch.testing.assert_close(result.double(), wanted.double(), rtol=max(eps, 4e-6), atol=1e-6)


def two(dtype, shape_a=(3, 4), shape_b=(3, 1)):
    torch.manual_seed(0)
    kind = TORCH_TYPES[dtype]
    return (torch.rand(shape_a) * 3 + 0.1).to(kind), (torch.rand(shape_b) * 3 + 0.1).to(kind)


FLOAT_OPS = {
    "SUM": lambda a, b: a + b,
    "PROD": lambda a, b: a * b,
    "MAX": lambda a, b: torch.where(a > b, a, b),
    "MIN": lambda a, b: torch.where(a < b, a, b),
    "SUB": lambda a, b: a - b,
    "DIV": lambda a, b: a / b,
    "POW": lambda a, b: (b * a.log()).exp(),
    "FLOOR_DIV": lambda a, b: (a / b).floor(),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", FLOAT_OPS)
def test_binary_operations_on_floats(op, dtype):
    a, b = two(dtype)
    near(evaluate("ELEMENTWISE", [a, b], dtype, (3, 4), op=op), FLOAT_OPS[op](a.double(), b.double()), dtype)


@pytest.mark.parametrize(("op", "wanted"), [("DIV", [-3, 3, -3]), ("FLOOR_DIV", [-4, 3, -4]), ("SUB", [-9, 5, 9])])
@pytest.mark.parametrize("dtype", ["INT32", "INT64"])
def test_integers_divide_towards_zero_and_stay_integers(op, wanted, dtype):
    a, b = (torch.tensor(x, dtype=TORCH_TYPES[dtype]) for x in ([-7, 7, 7], [2, 2, -2]))
    assert evaluate("ELEMENTWISE", [a, b], dtype, (3,), op=op).tolist() == wanted


@pytest.mark.parametrize(("op", "wanted"), [("EQUAL", [0, 1, 0]), ("GREATER", [0, 0, 1]), ("LESS", [1, 0, 0])])
def test_comparisons_give_bool(op, wanted):
    a, b = torch.tensor([1, 2, 3], dtype=torch.int32), torch.tensor([2, 2, 2], dtype=torch.int32)
    assert evaluate("ELEMENTWISE", [a, b], "BOOL", (3,), op=op).tolist() == [bool(x) for x in wanted]


@pytest.mark.parametrize(("op", "wanted"), [("AND", [0, 0, 0, 1]), ("OR", [0, 1, 1, 1]), ("XOR", [0, 1, 1, 0])])
def test_logical_operations(op, wanted):
    a, b = torch.tensor([False, False, True, True]), torch.tensor([False, True, False, True])
    assert evaluate("ELEMENTWISE", [a, b], "BOOL", (4,), op=op).tolist() == [bool(x) for x in wanted]


def test_ranks_must_be_equal():
    with pytest.raises(TargetError, match=r"layer 'layer output' \(ELEMENTWISE\) has inputs of ranks 2 and 1"):
        evaluate("ELEMENTWISE", [torch.ones(2, 3), torch.ones(3)], "FLOAT", (2, 3), op="SUM")


UNARY: dict[str, Callable[[float], float]] = {
    "EXP": math.exp,
    "LOG": math.log,
    "SQRT": math.sqrt,
    "RECIP": lambda x: 1 / x,
    "ABS": abs,
    "NEG": lambda x: -x,
    "SIN": math.sin,
    "COS": math.cos,
    "TAN": math.tan,
    "SINH": math.sinh,
    "COSH": math.cosh,
    "ASIN": math.asin,
    "ACOS": math.acos,
    "ATAN": math.atan,
    "ASINH": math.asinh,
    "ACOSH": math.acosh,
    "ATANH": math.atanh,
    "CEIL": math.ceil,
    "FLOOR": math.floor,
    "ERF": math.erf,
    "SIGN": lambda x: (x > 0) - (x < 0),
    "ROUND": round,
}
POSITIVE = {"LOG", "SQRT", "RECIP"}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", UNARY)
def test_unary_operations(op, dtype):
    values = [0.125, 0.5, 0.75, 1.25, 2.5] if op == "ACOSH" or op in POSITIVE else [0.125, 0.5, 0.75, -0.5, -0.25]
    x = (torch.tensor(values) + (op == "ACOSH")).to(TORCH_TYPES[dtype])
    exact = torch.tensor([UNARY[op](v) for v in x.tolist()], dtype=torch.float64)
    near(evaluate("UNARY", [x], dtype, x.shape, op=op), exact, dtype)


def test_unary_rounds_halves_to_even_and_tells_what_is_not_finite():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5])
    assert evaluate("UNARY", [x], "FLOAT", (4,), op="ROUND").tolist() == [0.0, 2.0, 2.0, -0.0]
    y = torch.tensor([1.0, math.inf, -math.inf, math.nan])
    assert evaluate("UNARY", [y], "BOOL", (4,), op="ISINF").tolist() == [False, True, True, False]
    assert evaluate("UNARY", [y], "BOOL", (4,), op="ISNAN").tolist() == [False, False, False, True]
    assert evaluate("UNARY", [torch.tensor([True, False])], "BOOL", (2,), op="NOT").tolist() == [False, True]
    assert evaluate("UNARY", [torch.tensor([-3, 4])], "INT64", (2,), op="NEG").tolist() == [3, -4]


A, B = 0.75, 1.5
ACTIVATIONS: dict[str, Callable[[float], float]] = {
    "RELU": lambda x: max(x, 0),
    "SIGMOID": lambda x: 1 / (1 + math.exp(-x)),
    "TANH": math.tanh,
    "LEAKY_RELU": lambda x: x if x >= 0 else A * x,
    "ELU": lambda x: x if x >= 0 else A * (math.exp(x) - 1),
    "SELU": lambda x: B * x if x > 0 else B * (A * math.exp(x) - A),
    "SOFTSIGN": lambda x: x / (1 + abs(x)),
    "SOFTPLUS": lambda x: A * math.log(math.exp(B * x) + 1),
    "CLIP": lambda x: max(A, min(B, x)),
    "HARD_SIGMOID": lambda x: max(0, min(1, A * x + B)),
    "SCALED_TANH": lambda x: A * math.tanh(B * x),
    "THRESHOLDED_RELU": lambda x: x if x > A else 0,
    "GELU_ERF": lambda x: 0.5 * x * (1 + math.erf(math.sqrt(0.5) * x)),
    "GELU_TANH": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (0.044715 * x**3 + x))),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("type_", ACTIVATIONS)
def test_activations(type_, dtype):
    x = torch.linspace(-4, 4, 33).to(TORCH_TYPES[dtype])
    exact = torch.tensor([ACTIVATIONS[type_](v) for v in x.tolist()], dtype=torch.float64)
    near(evaluate("ACTIVATION", [x], dtype, x.shape, type=type_, alpha=A, beta=B), exact, dtype)


def test_clip_has_no_bound_where_it_is_infinite():
    x = torch.tensor([-1e30, 0.0, 3.0])
    assert evaluate("ACTIVATION", [x], "FLOAT", (3,), type="CLIP", alpha=-math.inf, beta=1.0).tolist() == [
        pytest.approx(-1e30),
        0.0,
        1.0,
    ]


@pytest.mark.parametrize("dtype", ["FLOAT", "HALF", "INT64", "BOOL"])
def test_select_broadcasts(dtype):
    kind = TORCH_TYPES[dtype]
    keep = torch.tensor([[True], [False]])
    result = evaluate("SELECT", [keep, torch.ones(1, 3).to(kind), torch.zeros(2, 3).to(kind)], dtype, (2, 3))
    assert result.dtype == kind and result.tolist() == [[1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("source", "target", "wanted"),
    [
        (torch.tensor([1.9, -1.9]), "INT32", [1, -1]),
        (torch.tensor([1.0, 0.0, 1e-30]), "BOOL", [True, False, True]),
        (torch.tensor([True, False]), "HALF", [1.0, 0.0]),
        (torch.tensor([1 + 2**-9]), "BF16", [1.0]),
        (torch.tensor([1 + 3 * 2**-8]), "BF16", [1 + 2**-6]),
        (torch.tensor([70000.0]), "HALF", [math.inf]),
        (torch.tensor([2**40], dtype=torch.int64), "FLOAT", [2.0**40]),
    ],
)
def test_casts(source, target, wanted):
    result = evaluate("CAST", [source], target, source.shape, to_type=target)
    assert result.dtype == TORCH_TYPES[target] and result.tolist() == wanted


def test_identity():
    x = torch.arange(6, dtype=torch.int32).reshape(2, 3)
    assert torch.equal(evaluate("IDENTITY", [x], "INT32", (2, 3)), x)


def test_16_bit_sums_are_rounded_once():
    x, tiny = torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([2**-9 + 2**-12], dtype=torch.bfloat16)
    assert evaluate("ELEMENTWISE", [x, tiny], "FLOAT", (1,), op="SUM").item() == 1 + 2**-9 + 2**-12
    assert evaluate("ELEMENTWISE", [x, tiny], "BF16", (1,), op="SUM").item() == 1.0
