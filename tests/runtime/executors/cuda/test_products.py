"""Products with few rows, and with many, against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.ir.dtypes import DType
from runtime.executors.cuda.kernels import many_rows
from runtime.executors.cuda.kernels.products import MOST_ROWS, Product, Rounded, Section
from runtime.executors.cuda.kernels.tuning import Config, Tuning
from runtime.executors.torch.packed import PackedWeight
from tests.runtime.executors.cuda.products import LAUNCHES, SLICED, WIDE, Case, assert_right, build

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
FORMS = [
    Case("dense", 0, False),
    Case("int8", 0, False),
    Case("int8", -1, False),
    Case("int8", 32, True),
    Case("int8", 64, False),
    Case("int4", 0, False),
    Case("int4", 32, True),
    Case("int4", 64, False),
    Case("int4", 128, True),
    Case("int4", 256, False),
    Case("float8", 0, False),
    Case("float8", -1, False),
    Case("float8", 64, False),
]


def named(case: Case) -> str:
    """The name of a form in the name of a test."""
    return f"{case.form}-{case.group}{'-zero' * case.zero}"


def check(case: Case, device: torch.device) -> None:
    """Compare the product and its parts with float64."""
    built = build(case, device)
    y = built.product(built.xs)
    assert y.dtype is case.dtype
    many = case.rows > MOST_ROWS and case.form != "dense" and not built.product.has_kernel(built.xs)
    sides = (2 if case.rounded else 1) if many else 0
    assert_right(y, built.expected, built.sums, case.dtype, sides=sides)
    parts = built.product.partial(built.xs)
    assert parts.dtype is F32
    assert_right(parts.double().sum(0), built.linear, built.sums, case.dtype if many else F32, sides=sides)


@pytest.mark.parametrize("rows", [1, 3, 70])
@pytest.mark.parametrize("form", FORMS, ids=named)
def test_every_form_is_multiplied(form, rows, device):
    check(form._replace(rows=rows), device)


@pytest.mark.parametrize("form", FORMS[::3], ids=named)
def test_one_row_is_multiplied_without_matrix_instructions(form, device):
    check(form._replace(rows=1, config=LAUNCHES["gemv"], bias=True), device)


@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("form", FORMS, ids=named)
def test_warps_sum_up_slices(form, rows, split, device):
    width = min(form.group, 128) if form.group > 0 else 128 if form.form == "int4" else 64
    config = SLICED._replace(bk=2 * width, split=split)
    sections = (Section(20, None), Section(45, "relu"))
    case = form._replace(rows=rows, columns=(256, 512), sections=sections, bias=True, config=config)
    launch = build(case, device).product.launch(rows)
    assert launch.config.kind == "sliced" and launch.constants["PAIR"]
    check(case, device)


QUANTIZED = [form for form in FORMS if form.form != "dense"]


@pytest.mark.parametrize("form", QUANTIZED, ids=named)
def test_tiles_of_rows_are_multiplied(form, device):
    case = form._replace(rows=17, columns=(256,), sections=(Section(40, "relu"),), bias=True, config=WIDE)
    launch = build(case, device).product.launch(case.rows)
    assert launch.config == WIDE and launch.constants["SCALE"] == (2 if 0 < form.group < 256 else 1)
    check(case, device)


@pytest.mark.parametrize("form", [Case("int8", 64, True), Case("int4", 128), Case("float8")], ids=named)
def test_tiles_of_more_rows_are_multiplied(form, device):
    columns = (128, 256)
    case = form._replace(rows=66, columns=columns, dtype=BF16, config=WIDE._replace(bn=64, bm=128))
    check(case, device)


@pytest.mark.parametrize("form", [Case("int8", zero=True), Case("int4")], ids=named)
def test_columns_of_an_input_are_summed_up_before_they_are_scaled(form, device):
    config = WIDE._replace(bn=64, bk=256)
    case = form._replace(rows=9, columns=(512, 1024), config=config)
    assert build(case, device).product.launch(case.rows).constants["WHOLE"] == 512
    check(case, device)


@pytest.mark.parametrize("form", [Case("int8"), Case("int8", 64, True), Case("int4", 128, True)], ids=named)
def test_sums_of_tiles_of_rows_are_split(form, device):
    case = form._replace(rows=9, columns=(384,), config=WIDE._replace(split=3, bn=64))
    assert build(case, device).product.launch(case.rows).split == 3
    check(case, device)


@pytest.mark.parametrize("form", [Case("dense"), Case("int8", columns=(50,)), Case("int8", dtype=F32)], ids=named)
def test_what_tiles_of_rows_cannot_multiply_is_multiplied_otherwise(form, device):
    kinds = [build(form._replace(config=WIDE), device).product.launch(rows).config.kind for rows in (64, 65, 512, 513)]
    assert kinds == ["dot", "library", "library", "library"]


def test_more_rows_than_tiles_are_for_are_left_to_libraries(device):
    product = build(Case("int8", config=WIDE), device).product
    assert [product.launch(rows).config.kind for rows in (64, 65, 512, 513)] == ["wide", "wide", "wide", "library"]


def test_slices_that_have_several_scales_are_multiplied_otherwise(device):
    case = Case("int8", 64, True, columns=(256,), config=SLICED)
    assert build(case, device).product.launch(case.rows).config.kind == "dot"
    check(case, device)


@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
@pytest.mark.parametrize("form", FORMS[::2], ids=named)
def test_other_types_of_activations_are_multiplied(form, dtype, device):
    check(form._replace(dtype=dtype, rows=2), device)


@pytest.mark.parametrize("rows", [16, 17, 40, 64])
def test_rows_fill_tiles_of_any_size(rows, device):
    check(Case("int4", 64, True, rows=rows), device)


@pytest.mark.parametrize("split", [2, 3, 6])
@pytest.mark.parametrize("form", [Case("dense"), Case("int8"), Case("int4", 128, True)], ids=named)
def test_sums_are_split(form, split, device):
    sections = (Section(20, None), Section(45, "gelu"))
    config = LAUNCHES["dot"]._replace(split=split)
    case = form._replace(columns=(768,), sections=sections, bias=True, config=config)
    assert build(case, device).product.launch(case.rows).split == split
    check(case, device)


@pytest.mark.parametrize("kind", ["dot", "gemv"])
@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("form", [Case("dense"), Case("int8"), Case("float8"), Case("int4", 128, True)], ids=named)
def test_two_inputs_are_multiplied_where_they_lie(form, split, kind, device):
    case = form._replace(rows=1, columns=(128, 256), config=LAUNCHES[kind]._replace(split=split))
    assert build(case, device).product.launch(case.rows).constants["PAIR"]
    check(case, device)


@pytest.mark.parametrize("columns", [(50,), (24, 41)])
def test_columns_that_no_step_divides_are_masked(columns, device):
    check(Case("dense", columns=columns), device)
    if len(columns) == 1:
        check(Case("int8", columns=columns), device)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
def test_activations_are_applied_in_their_columns(activation, device):
    check(Case("dense", sections=(Section(13, None), Section(30, activation), Section(7, None)), bias=True), device)


def test_several_activations_are_applied(device):
    sections = (Section(13, "relu"), Section(30, None), Section(7, "silu"))
    check(Case("dense", sections=sections), device)
    check(Case("dense", sections=sections, rows=70, bias=True), device)


ROUNDED = [case._replace(rounded=True) for case in FORMS if case.form in ("int8", "float8") and not case.zero]


@pytest.mark.parametrize("rows", [1, 3, 70])
@pytest.mark.parametrize("form", ROUNDED, ids=named)
def test_rounded_activations_are_multiplied(form, rows, device):
    check(
        form._replace(rows=rows, one_scale=rows == 3, bias=True, sections=(Section(40, None), Section(24, "relu"))),
        device,
    )


@pytest.mark.parametrize("rows", [2, 70])
@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
@pytest.mark.parametrize("form", ROUNDED, ids=named)
def test_two_rounded_inputs_are_multiplied(form, dtype, split, rows, device):
    config = LAUNCHES["dot"]._replace(split=split)
    sections = (Section(32 if rows > 2 else 57, None),)
    check(form._replace(rows=rows, dtype=dtype, columns=(128, 256), config=config, sections=sections), device)


@pytest.mark.parametrize(("columns", "split"), [((256,), 1), ((384,), 3), ((128, 256), 1), ((128, 256), 3)], ids=str)
def test_tiles_of_rounded_rows_are_multiplied(columns, split, device):
    config = Config("wide", 64, 64, 4, 3, split, 64)
    case = Case(
        "int8", rows=66, sections=(Section(70, "relu"),), columns=columns, bias=True, config=config, rounded=True
    )
    launch = build(case, device).product.launch(case.rows, rounded=True)
    assert launch.config == config and launch.split == split
    check(case, device)
    check(case._replace(group=-1, dtype=BF16, one_scale=True, rows=65, sections=(Section(64, None),)), device)


def test_tiles_of_many_rounded_rows_split_no_sum(device):
    case = Case("int8", columns=(128, 256), config=Config("wide", 512, 64, 4, 3, 2, 64), rounded=True)
    product = build(case, device).product
    found = [product.launch(rows, rounded=True) for rows in (512, 513, 9999)]
    assert [(launch.config.kind, launch.split, launch.config.bn) for launch in found] == [
        ("wide", 2, 128), ("wide", 1, 128), ("wide", 1, 128)
    ]  # fmt: skip
    product = build(case._replace(form="float8"), device).product
    assert [product.launch(rows, rounded=True).config.kind for rows in (64, 65, 513)] == ["dot", "library", "library"]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("works", [False, True])
@pytest.mark.parametrize("one_scale", [False, True])
def test_float8_rows_are_scaled_where_they_are_multiplied(works, bias, one_scale, device, monkeypatch):
    monkeypatch.setattr(many_rows, "adds_float8", lambda device, dtype: dtype is not F32)
    multiply, calls = torch._scaled_mm, []

    def scaled(*args, **kwargs):
        if not works and args[2].numel() > 1:
            raise RuntimeError("only with scales of tensors")
        calls.append(args[2].shape)
        return multiply(*args, **kwargs)

    monkeypatch.setattr(torch, "_scaled_mm", scaled)
    many_rows._scales.cache_clear()
    sections = (Section(2048, "relu"),)
    case = Case("float8", rows=66, sections=sections, bias=bias, rounded=True, one_scale=one_scale)
    built = build(case, device)
    y = built.product(built.xs)
    many_rows._scales.cache_clear()
    # These instructions add with fewer bits than float32.
    assert ((y.double() - built.expected).abs() <= 2e-3 * built.sums + 1e-3).all()
    assert calls[-1] == ((66, 1) if works else ())


@pytest.mark.parametrize("rows", [3, 70])
def test_sums_of_integers_are_exact(rows, device):
    """Sums of integers that differ by little, and whose terms no float16 nor bfloat16 holds."""
    k = 4096
    part = PackedWeight(torch.full((32, k), 127, dtype=torch.int8), torch.ones(32, 1), None, (32, k), DType.i8)
    product = Product([[part]], [Section(32, None)], None, F32, device, Tuning(None, 4, 1 << 17))
    q = torch.full((rows, k), 127, dtype=torch.int8)
    q[1, 5] = 126
    y = product([Rounded(q.to(device), torch.ones(1, device=device))])
    expected = torch.full((rows, 32), 127 * 127 * k, dtype=torch.int64)
    expected[1] -= 127
    assert torch.equal(y.cpu(), expected.float())


@pytest.mark.parametrize("columns", [(50,), (96,)])
def test_rounded_rows_of_any_width_are_multiplied(columns, device):
    check(Case("int8", columns=columns, rounded=True), device)
    check(Case("int8", columns=columns, rounded=True, rows=66), device)


def test_no_rows_give_no_rows(device):
    built = build(Case("int8", rows=0), device)
    assert built.product(built.xs).shape == (0, 57)
    assert built.product.partial(built.xs).shape == (1, 0, 57)


def test_bytes_are_those_that_are_read(device):
    built = build(Case("int4", 128, True, bias=True), device)
    assert built.product.nbytes == 57 * 256 // 2 + 57 * 2 * (4 + 1) + 57 * 2


@st.composite
def cases(draw: st.DrawFn) -> Case:
    form = draw(st.sampled_from(["dense", "int8", "int4", "float8"]))
    unit = draw(st.sampled_from([32, 64, 128]))
    columns = [unit * draw(st.integers(1, 3)) for _ in range(draw(st.integers(1, 2)))]
    groups = [0] if form == "dense" else [0, -1, 32, unit]
    activation = draw(st.sampled_from([None, "relu", "silu", "gelu_tanh"]))
    sections = [Section(draw(st.integers(1, 40)), draw(st.sampled_from([None, activation]))) for _ in range(2)]
    rows = draw(st.sampled_from([1, 1, 2, 5, 33, 66]))
    kind = draw(st.sampled_from(["dot", "gemv", "sliced", "wide"]))
    split = draw(st.sampled_from([1, 2, 5]))
    bm = 16 if kind == "wide" else 0
    config = Config(kind, draw(st.sampled_from([16, 64])), draw(st.sampled_from([64, 256])), 4, 3, split, bm)
    zero = form in ("int8", "int4") and draw(st.booleans())
    return Case(
        form, draw(st.sampled_from(groups)), zero, draw(st.sampled_from([F16, BF16, F32])), rows, sections, columns,
        draw(st.booleans()), config, draw(st.integers(0, 1000)),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@settings(max_examples=40)
@given(case=cases())
def test_any_product_is_right(case, device):
    check(case, device)
