"""Every op has all its parts, or a reason to do without one."""

from pathlib import Path

import pytest

from compiler.ir.op import OPS
from llmc.inspection.op_facts import NOT_NEEDED, describe_op, describe_ops

OWN = [facts for facts in describe_ops() if OPS.is_own(facts.kind.name)]


@pytest.mark.parametrize("part", NOT_NEEDED)
def test_every_op_has_the_part_or_is_exempt_with_a_reason(part):
    found = {facts.kind.name: next(each for each in facts.parts if each.name == part) for facts in OWN}
    absent = {name: each.reason for name, each in found.items() if each.place is None}
    assert absent == NOT_NEEDED[part]  # an exemption that is no longer needed is wrong, too
    for each in found.values():
        if each.place is not None:
            assert each.place.line is not None
            assert each.place.line <= len(Path(each.place.file).read_text().splitlines())


def test_every_op_has_the_same_parts_and_says_what_it_means():
    assert OWN
    for facts in OWN:
        assert [part.name for part in facts.parts] == list(NOT_NEEDED)
        assert facts.kind.doc, facts.kind.name


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("layer_norm", "layer_norm(x, [weight], [bias], eps=1e-05)"),
        ("concat", "concat(x, more..., axis)"),
        ("iota", "iota(size, dtype=i32)"),
    ],
)
def test_how_an_op_is_called(name, call):
    assert describe_op(name).call == call


def test_types_are_shown_as_declarations_spell_them():
    assert describe_op("random").attributes == (
        ("key", "str", None),
        ("dtype", "DType", None),
        ("shape", "tuple[Dim, ...]", None),
        ("mean", "float", "0.0"),
        ("std", "float", "0.02"),
    )
    assert describe_op("slice").attributes[1:] == (("start", "Dim", None), ("size", "Dim", None))


def test_what_tensorrt_takes_is_said_where_it_has_a_rule():
    assert describe_op("softmax").tensorrt_takes == "f32 f16 bf16; it takes tensors of two dims or more"
    assert describe_op("embedding").tensorrt_takes == "f32 f16 bf16 i64 i32 i8 bool; indices i64 i32"
    assert describe_op("unpack").tensorrt_takes is None
