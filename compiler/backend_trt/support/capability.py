"""Which GPUs TensorRT builds a graph for: those that have the element types of its network.

Measured with TensorRT-RTX 1.6.1, which names the types it cannot compile for a compute capability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compiler.backend_trt.options import COMPUTE_CAPABILITIES
from compiler.backend_trt.quantized_weights import weight_form
from compiler.errors import TargetError
from compiler.ir.analysis import packed_weights, stored_values
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph

LEAST: Mapping[DType, str] = {DType.bf16: "8.0", DType.i4: "8.0", DType.f8e4m3: "8.9"}
"""The first compute capability that has a type; all have the others."""


def able(graph: Graph) -> tuple[str, ...]:
    """The compute capabilities that have every type in the network of a graph."""
    return tuple(one for one in COMPUTE_CAPABILITIES if not _missing(graph, one))


def require_able(graph: Graph, capabilities: Sequence[str]) -> None:
    """Check the GPUs that are asked for.

    Raises:
        TargetError: if one of them lacks a type of the network, naming both and a way out.
    """
    for capability in capabilities:
        if missing := _missing(graph, capability):
            types = " and ".join(str(dtype) for dtype in missing)
            raise TargetError(
                f"a GPU of compute capability {capability} has no {types}, which the engine computes with",
                hint=f"build for --compute-capability {','.join(able(graph))}, or choose another recipe or --dtype",
            )


def _missing(graph: Graph, capability: str) -> list[DType]:
    """The types of a network that GPUs lack."""
    stored, packed = stored_values(graph), packed_weights(graph)
    types = {value.type.dtype for value in graph.values.values() if value.name not in stored}
    types |= {op.operands[0].type.dtype for op in packed.values() if weight_form(op) != "wide"}
    return [dtype for dtype, least in LEAST.items() if dtype in types and _number(capability) < _number(least)]


def _number(capability: str) -> tuple[int, ...]:
    return tuple(map(int, capability.split(".")))
