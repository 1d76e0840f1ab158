"""The graph that a config stands for, over weights that say their names in a checkpoint.

The frontend of the family makes it: what it reads under a name is written under that name, and there is no second table
of names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from compiler.frontends.checkpoint import Checkpoint
from compiler.frontends.lift import lift
from compiler.frontends.weights import DIVISORS
from compiler.ir.analysis import constant_values
from compiler.ir.cache_layout import LINEAR
from compiler.ir.dtypes import COMPUTE_DTYPES
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.paged_layout import CACHE_BLOCK, layout_of
from compiler.ir.sinking import sink_slices
from compiler.passes.cache import CacheForm
from compiler.passes.cleanup import cleanup
from compiler.passes.fuse_attention import FuseAttention
from compiler.passes.parallel.unmerge import unmerge_linears

DTYPE_KEYS = ("dtype", "torch_dtype")
QUANTIZED_KEYS = ("quantization_config", "compression_config")


@dataclass(frozen=True)
class Template:
    """A family's graph over named weights.

    Attributes:
        config: the config that it was made from.
        graph: the graph, in the form that `comparable` makes; weights are `random`s whose keys are their names.
    """

    config: Mapping[str, Any]
    graph: Graph

    @cached_property
    def weights(self) -> Mapping[str, Op]:
        """The ops that stand for tensors of a checkpoint, by the tensors' names, in the order of the model."""
        return {op.attrs["key"]: op for op in self.graph.find("random")}

    @cached_property
    def made_of_weights(self) -> frozenset[str]:
        """The names of the values that are weights, or made of weights alone."""
        found: set[str] = set()
        constant = constant_values(self.graph)
        for op in self.graph.ops:
            if op.kind.name == "random" or (op.name in constant and any(value.name in found for value in op.operands)):
                found.update(value.name for value in op.results)
        return frozenset(found)

    def divisors(self, op: Op | None) -> str | None:
        """The tensor's name, if an op is a division by a tensor that only some checkpoints have."""
        if op is None or op.kind.name != "div":
            return None
        producer = self.graph.producers.get(op.operands[1].name)
        if producer is None or producer.kind.name != "random":
            return None
        key = str(producer.attrs["key"])
        return key if key.rpartition(".")[2] == DIVISORS else None

    def tensor_of(self, value: Value) -> str:
        """The name of the tensor that a weight is, or is a part of."""
        op = self.graph.producers[value.name]
        while op.kind.name != "random":
            op = next(
                self.graph.producers[operand.name] for operand in op.operands if operand.name in self.made_of_weights
            )
        return str(op.attrs["key"])


def make_template(config: Mapping[str, Any], like: Graph, *, tied: bool | None = None) -> Template:
    """The template of a config.

    Args:
        config: the content of `config.json`.
        like: the graph that will be compared with it, whose element type and layout of caches it gets.
        tied: whether the head is tied to the embedding; None for what the config says.

    Raises:
        ConfigError: if no frontend reads the config.
    """
    plain = {key: value for key, value in config.items() if key not in (*QUANTIZED_KEYS, *DTYPE_KEYS)}
    plain["dtype"] = next(name for name, dtype in COMPUTE_DTYPES.items() if dtype.value == like.facts["dtype"])
    if tied is not None:
        plain["tie_word_embeddings"] = tied
    graph = lift(Checkpoint(Path(), dict(plain), dummy_weights=True, optional_weights=True))
    return Template(plain, comparable(graph, like))


def comparable(graph: Graph, like: Graph) -> Graph:
    """A graph in the form in which a template and what passes have made of a model are compared.

    Linears are apart, attention is one op, caches lie as in `like`, and nothing is computed twice.
    """
    graph = sink_slices(unmerge_linears(graph, ""))
    graph = cleanup(FuseAttention()(cleanup(graph)))
    if layout_of(like) != LINEAR and layout_of(graph) == LINEAR:
        graph = CacheForm("paged", int(like.facts[CACHE_BLOCK]))(graph)
        graph = cleanup(graph)
    return graph
