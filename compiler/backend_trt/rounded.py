"""Inputs of linears in 8 bits: which pairs of `quantize` and `dequantize` the rule of linears emits itself.

TensorRT multiplies in 8 bits where a product reads a quantize layer, a dequantize layer and a weight of the same type.
Rows must be padded before they are quantized, so the pair is not emitted where it stands, but where a linear reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from compiler.backend_trt.quantized_weights import weight_form
from compiler.ir.graph import Graph
from compiler.ir.op import Op


def rounded_inputs(graph: Graph, packed: Mapping[str, Op], stored: Set[str]) -> dict[str, Op]:
    """The `quantize` behind each input that linears multiply in 8 bits, by the name of the input.

    Args:
        graph: what is emitted.
        packed: the ops that dequantize weights, by the name of the result.
        stored: the names of all other constants.
    """
    found: dict[str, Op] = {}
    for op in graph.find("quantize"):
        readers = graph.users.get(op.name, ())
        if not readers or op.result in graph.outputs.values() or not _has_one_factor(op, stored):
            continue
        if all(_undoes(reader, op, graph) and _feeds_linears(reader, graph, packed) for reader in readers):
            found.update((reader.result.name, op) for reader in readers)
    return found


def _has_one_factor(op: Op, stored: Set[str]) -> bool:
    """Whether what is quantized has one scale from calibration, or one for each token."""
    x, *parameters = op.operands
    if len(parameters) > 1 or x.type.rank < 2:
        return False
    shape = parameters[0].type.shape
    if parameters[0].name in stored:
        return all(size == 1 for size in shape)
    return shape == (*x.type.shape[:-1], 1)


def _undoes(op: Op, quantize: Op, graph: Graph) -> bool:
    same = op.kind.name == "dequantize" and op.operands == (quantize.result, quantize.operands[1])
    return same and op.result not in graph.outputs.values()


def _feeds_linears(op: Op, graph: Graph, packed: Mapping[str, Op]) -> bool:
    dtype = op.operands[0].type.dtype
    return all(
        user.kind.name == "linear"
        and user.operands[0] == op.result
        and (weight := packed.get(user.operands[1].name)) is not None
        and weight.operands[0].type.dtype is dtype
        and len(weight.operands) == 2
        and weight_form(weight) == "codes"
        for user in graph.users.get(op.name, ())
    )
