"""What is wrong with a rank's graph, or with what is asked of it, before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import EngineError, RequestError, TargetError
from compiler.ir.analysis import stored_values
from compiler.ir.collectives import COLLECTIVES
from compiler.ir.graph import Graph
from compiler.ir.step import StepDim
from compiler.ir.step_interface import StepInterface
from compiler.sizes import bytes_text
from runtime.executors.memory import free_bytes, weights_error

if TYPE_CHECKING:
    import torch

    from runtime.collectives.communicator import Communicator


def check_whole(interface: StepInterface, graph: Graph) -> None:
    """EngineError if the graph is that of a stage: it gives no logits, or needs what other stages send."""
    if not interface.is_whole:
        raise EngineError(
            f"the graph of rank {graph.facts.get('rank', 0)} is one stage of a model, which gives no logits alone",
            hint="open_stage, or runtime.executors.parallel.pipeline.PipelineExecutor over all stages",
        )


def check_blocks(interface: StepInterface, graph: Graph, blocks: int) -> int:
    """See that a session of so many blocks can be opened; returns how many tokens a block holds.

    Raises:
        EngineError: if the graph's caches are linear.
        RequestError: if there would be no block.
    """
    if interface.block is None:
        raise EngineError(
            f"the caches of {graph.name} are linear, so that it takes no packed steps",
            hint="compile the engine with --passes cache=paged",
        )
    if blocks < 1:
        raise RequestError(f"{blocks} blocks were asked for; a session has 1 or more")
    return interface.block


def check_linear(interface: StepInterface, graph: Graph) -> None:
    """EngineError if the graph's caches are paged, so that it takes no steps of rows."""
    if interface.block is not None:
        raise EngineError(
            f"the caches of {graph.name} are paged, in blocks of {interface.block} tokens",
            hint="open_paged_stage, which takes packed steps",
        )


def check_size(graph: Graph, batch: int, capacity: int) -> None:
    """RequestError if the engine was not built for so many sequences, or so many tokens of each."""
    for what, dim, size in (("sequences", StepDim.BATCH, batch), ("tokens per sequence", StepDim.CAPACITY, capacity)):
        limit = graph.dims[dim].max
        if not 1 <= size <= limit:
            raise RequestError(f"{size} {what} were asked for; the engine is built for 1 to {limit}")


def check_weights(graph: Graph, device: torch.device) -> None:
    """TargetError if a GPU has no room for the weights of a graph; before any is read. A CPU's memory is not asked."""
    if device.type != "cuda":
        return
    stored = stored_values(graph)
    read = {value.name: value for op in graph.ops if op.name not in stored for value in op.operands}
    size = sum(value.type.nbytes for name, value in read.items() if name in stored)
    if size > (free := free_bytes(device)):
        raise weights_error(device, f"they take {bytes_text(size)}, and {bytes_text(free)} is free")


def why_no_gpu(*, odd: bool = False) -> str:
    """What torch says of why it can use no GPU, in a sentence without a full stop; empty if it can.

    Args:
        odd: whether to say only what is odd, such as a driver that is too old, and not that the machine has no GPU, or
            that torch is built without CUDA.
    """
    import torch

    if torch.cuda.is_available():
        return ""
    try:
        torch.cuda.init()
    except Exception as error:  # noqa: BLE001 - of whatever kind
        text = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
        return "" if odd and any(words in text for words in _NO_GPU) else text
    return ""


_NO_GPU = ("not compiled with CUDA", "Found no NVIDIA driver", "No CUDA GPUs are available")
"""What torch says where there is no GPU."""


def check_group(graph: Graph, group: Communicator) -> None:
    """TargetError, naming the op, if a collective of the graph is for more or fewer ranks than the group has."""
    for op in graph.ops:
        if op.kind.name in COLLECTIVES and op.attrs["parts"] != group.size:
            raise TargetError(
                f"{op.kind.name} %{op.name} from {op.origin} is for {op.attrs['parts']} ranks; "
                f"the group has {group.size}",
                hint="start as many ranks as the engine was compiled for, or leave that to llmc run",
            )
