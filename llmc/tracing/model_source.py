"""A model of `transformers` as a side of a trace: its modules show the values of the graph lifted from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from compiler.ir.chunks import BUDGET
from compiler.ir.graph import Graph
from compiler.ir.step import LOGITS, Step, dim_sizes
from llmc.evaluation.transformers_model import TransformersModel
from llmc.tracing.module_taps import Tap, find_taps
from llmc.tracing.source import Emit, Traced
from runtime.executors.memory import memory_for


class ModelSource:
    """A model of `transformers`, seen through hooks of its modules. See `llmc.tracing.source.Source`.

    Args:
        model: the model.
        graph: the graph lifted from the same checkpoint, which names the values.
    """

    ranks = 1
    quantizes = False

    def __init__(self, model: TransformersModel, graph: Graph) -> None:
        self.words = f"{model.name}, run by {model.runner}"
        self.graphs = (graph,)
        self._model = model.model
        self.dtype = str(self._model.dtype).removeprefix("torch.")
        taps = {tap.name: tap for tap in find_taps(graph, self._model)}
        self._logits = graph.outputs[LOGITS].name
        taps.pop(self._logits, None)
        self._taps = taps
        self.values = {
            value.name: Traced(value.name, op, value.type, constant=False)
            for op in graph.ops
            for value in op.results
            if value.name in taps or value.name == self._logits
        }

    def chunk(self, length: int) -> int:
        """See `Source.chunk`: attention weights of all heads may be held."""
        facts = self.graphs[0].facts
        return max(1, min(length, BUDGET // int(facts["vocab_size"]), BUDGET // (int(facts["heads"]) * length)))

    @torch.inference_mode()
    def run(self, steps: Sequence[Step], wanted: Collection[str], emit: Emit) -> None:
        """See `Source.run`."""
        number, sizes = 0, dict[str, int]()

        def show(name: str, tensor: Tensor) -> None:
            shape = self.values[name].type.sizes(sizes)
            if tensor.numel() == math.prod(shape):
                emit(number, name, [tensor.detach().reshape(shape)])

        modules = dict(self._model.named_modules())
        handles = [_hook(modules[tap.module], tap, show) for name, tap in self._taps.items() if name in wanted]
        caches = None
        try:
            for number, step in enumerate(steps):  # noqa: B007 - what is shown says of which step it is
                sizes.update(dim_sizes(batch=1, length=step.length, wanted=step.wanted))
                with memory_for(f"tracing {step.length} tokens"):
                    found = self._model(
                        input_ids=step.token_ids.long().to(self._model.device),
                        past_key_values=caches,
                        use_cache=True,
                    )
                caches = found.past_key_values
                if self._logits in wanted:
                    show(self._logits, found.logits[:, step.logit_pos[0].long()])
        finally:
            for handle in handles:
                handle.remove()


def _hook(module: Any, tap: Tap, show: Callable[[str, Tensor], None]) -> Any:
    """Have a module show what it is given or returns."""

    def seen(found: Any) -> None:
        tensor = found[0] if isinstance(found, tuple) else found
        show(tap.name, tensor if tap.features is None else tensor[..., tap.features.to(tensor.device)])

    if tap.is_input:

        def before(module: Any, given: Any, named: Any) -> None:
            seen(given[0] if given else next(iter(named.values())))

        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(lambda module, given, found: seen(found))
