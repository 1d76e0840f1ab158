"""Sums over the ranks are joined where nothing else needs them, and only there."""

import pytest

from compiler.ir.printer import format_op
from compiler.passes.parallel.reductions import merge_reductions
from tests.passes.checks import graph_of


def merged(body, outputs="output y = %y"):
    inputs = "\n".join(f"input {name}: f32[B,4]" for name in "abcx")
    result = merge_reductions(graph_of(f"{inputs}\ninput v: f32[4]\n\n.:\n{body}\n\n{outputs}"), "tp")
    return [format_op(op).partition("  !")[0] for op in result.ops]


A = "  %ra: f32[B,4] = all_reduce(%a, parts=2)\n"
B = "  %rb: f32[B,4] = all_reduce(%b, parts=2)\n"


def test_two_sums_are_one():
    assert merged(f"{A}{B}  %y: f32[B,4] = add(%ra, %rb)") == [
        "%y.add: f32[B,4] = add(%a, %b)",
        "%y: f32[B,4] = all_reduce(%y.add, parts=2)",
    ]


def test_through_the_residual_and_biases():
    body = f"""{A}  %first: f32[B,4] = add(%ra, %v)
  %after: f32[B,4] = add(%x, %first)
{B}  %y: f32[B,4] = add(%after, %rb)"""
    assert merged(body) == [
        "%y.add: f32[B,4] = add(%a, %b)",
        "%y.all_reduce: f32[B,4] = all_reduce(%y.add, parts=2)",
        "%y.add_2: f32[B,4] = add(%x, %v)",
        "%y: f32[B,4] = add(%y.add_2, %y.all_reduce)",
    ]


KEPT = {
    "another op reads a sum": (f"{A}{B}  %y: f32[B,4] = add(%ra, %rb)\n  %z: f32[B,4] = relu(%ra)", "output z = %z"),
    "a sum is an output": (f"{A}{B}  %y: f32[B,4] = add(%ra, %rb)", "output z = %ra"),
    "another op reads what lies between": (
        f"{A}  %mid: f32[B,4] = add(%x, %ra)\n{B}  %y: f32[B,4] = add(%mid, %rb)\n  %z: f32[B,4] = relu(%mid)",
        "output z = %z",
    ),
    "not added": (f"{A}{B}  %y: f32[B,4] = mul(%ra, %rb)", ""),
    "added to itself": (f"{A}  %y: f32[B,4] = add(%ra, %ra)", ""),
    "over other ranks": (
        f"{A}  %rb: f32[B,4] = all_reduce(%b, parts=3)\n  %y: f32[B,4] = add(%ra, %rb)",
        "",
    ),
    "one broadcasts": (
        f"{A}  %rv: f32[4] = all_reduce(%v, parts=2)\n  %y: f32[B,4] = add(%ra, %rv)",
        "",
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_kept(case):
    body, outputs = KEPT[case]
    ops = merged(body, f"output y = %y\n{outputs}")
    assert ops == [line.strip() for line in body.split("\n")]


def test_three_are_one():
    body = f"{A}{B}  %rc: f32[B,4] = all_reduce(%c, parts=2)\n"
    ops = merged(f"{body}  %s: f32[B,4] = add(%ra, %rb)\n  %y: f32[B,4] = add(%rc, %s)")
    assert sum("all_reduce(" in op for op in ops) == 1
    assert ops[-1] == "%y: f32[B,4] = all_reduce(%y.add_2, parts=2)"
