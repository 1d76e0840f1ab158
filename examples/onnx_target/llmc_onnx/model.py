"""The model of a rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from onnx import ModelProto, helper
from torch import Tensor

import llmc_onnx.linears
import llmc_onnx.rules  # noqa: F401 - both register rules
from compiler.errors import TargetError
from compiler.ir.cache_layout import LINEAR
from compiler.ir.collectives import COLLECTIVES
from compiler.ir.graph import Graph
from compiler.ir.op import Value
from compiler.ir.paged_layout import layout_of
from llmc_onnx.data_file import DataFile
from llmc_onnx.emission import MICROSOFT, Emission
from llmc_onnx.names import next_state
from llmc_onnx.types import ELEMENT_TYPES, value_info

OPSET, IR_VERSION = 21, 10


def make_model(
    graph: Graph, load: Callable[[Value], Tensor], data: DataFile, *, round_inputs: bool = False
) -> ModelProto:
    """The model of a rank's graph. No weight is read.

    Args:
        graph: the graph, its constants as they are stored.
        load: gives the values of a constant, when `data` is written.
        data: where weights go that the model has in a form of their own.
        round_inputs: whether what quantized weights multiply is rounded to 8 bits.

    Raises:
        TargetError: naming the op or the value that ONNX or onnxruntime does not have, and the mend.
    """
    _require(graph)
    outputs: Mapping[str, Value] = {next_state(role, graph): value for role, value in graph.outputs.items()}
    e = Emission(graph, load, data, round_inputs=round_inputs)
    e.declare(outputs)
    for op in graph.ops:
        e.emit(op)
    e.finish(outputs)
    made = helper.make_graph(
        e.nodes,
        graph.name,
        [value_info(value.name, value.type) for value in graph.inputs],
        [value_info(name, value.type) for name, value in outputs.items()],
        initializer=e.initializers,
        value_info=[info for info in e.infos if info.name not in outputs],
    )
    domains = [helper.make_opsetid("", OPSET)]
    if any(node.domain == MICROSOFT for node in e.nodes):
        domains.append(helper.make_opsetid(MICROSOFT, 1))
    model: Any = helper.make_model(made, producer_name="llmc", opset_imports=domains, ir_version=IR_VERSION)
    helper.set_model_props(model, {name: str(fact) for name, fact in graph.facts.items()})
    assert isinstance(model, ModelProto)
    return model


def _require(graph: Graph) -> None:
    if layout_of(graph) != LINEAR:
        raise TargetError(
            f"the ONNX target has linear caches, one row for each sequence; those of {graph.name} are paged",
            hint="leave cache=paged out, or compile for the torch target alone: --target torch",
        )
    for op in graph.ops:
        if op.kind.name in COLLECTIVES:
            raise TargetError(
                f"{op.kind.name} %{op.name}: onnxruntime has no operator by which ranks compute together",
                hint="leave tp out; pp, whose stages compute one after the other, works",
            )
    for value in (*graph.inputs, *graph.outputs.values()):
        if value.type.dtype not in ELEMENT_TYPES:
            raise TargetError(
                f"%{value.name} is {value.type}, in which onnxruntime does not compute on a CPU",
                hint="compile with --dtype float32 or --dtype float16",
            )
