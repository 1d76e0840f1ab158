"""The pass `lora`: LoRA adapters merged into the weights of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from compiler.adapters.lora import LoraAdapter, LowRank, read_lora_folder
from compiler.errors import PassError
from compiler.ir.dims import shape_text
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.mesh import mesh_of
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import Replacement, RewriteBuilder, sweep
from compiler.passes.registry import register
from compiler.store.stored_tensor import StoredTensor
from compiler.suggest import did_you_mean

PASS_NAME = "lora"
_OTHER = "give an adapter that was trained for this checkpoint"
# Families whose head some versions of transformers call otherwise than checkpoints do.
_HEAD = "lm_head"
_SPELLINGS = ((_HEAD, "embed_out"),)


@register(PASS_NAME)
@dataclass(frozen=True)
class MergeLora:
    """Merge LoRA adapters, which PEFT has saved, into the weights.

    Each folder holds an adapter; the change of a weight is computed and added in float32, and rounded once. Adapters
    that change the same weight add up. rsLoRA, DoRA, ranks and alphas by pattern, embeddings, biases and modules that
    were trained as a whole are read.
    """

    adapters: Annotated[tuple[Path, ...], "the adapter folders"]
    scale: Annotated[tuple[float, ...], "factors of the changes, one for all adapters, or one for each"] = (1.0,)

    def __post_init__(self) -> None:
        if not self.adapters:
            raise PassError(f"{PASS_NAME} names no adapter folder", hint=f"write {PASS_NAME}=FOLDER")
        if len(self.scale) not in (1, len(self.adapters)):
            raise PassError(
                f"{PASS_NAME} has {len(self.adapters)} adapter folders and {len(self.scale)} scales",
                hint=f"write one for all, or one for each: {PASS_NAME}=FOLDER+FOLDER:scale=1+0.5",
            )
        if not all(map(math.isfinite, self.scale)):
            raise PassError(f"{PASS_NAME} has the scale {max(self.scale):g}", hint="give a number")

    def requires(self, graph: Graph) -> None:
        """The graph must be one of weights that are neither quantized nor split over ranks."""
        if mesh_of(graph).size > 1:
            raise PassError("the graph is split over ranks already", hint=f"write {PASS_NAME} before tp and pp")
        if any(True for _ in graph.find("dequantize")):
            raise PassError(
                "the graph is quantized already, and adapters are merged before that",
                hint=f"write {PASS_NAME} before quant and kv; of a checkpoint that is quantized, take the original",
            )

    def __call__(self, graph: Graph) -> Graph:
        """The graph with changed weights."""
        adapters = [read_lora_folder(folder) for folder in self.adapters]
        scales = self.scale if len(self.scale) > 1 else self.scale * len(adapters)
        heads: tuple[str, ...] = ()
        if any(_parts_a_tie(graph, adapter) for adapter in adapters):
            graph, heads = _untied(graph)
        plan = _Plan(graph, heads)
        for adapter, scale in zip(adapters, scales, strict=True):
            plan.add(adapter, scale)
        return sweep(graph, plan.visit, pass_name=PASS_NAME)


class _Plan:
    """What is to be done to which weights."""

    def __init__(self, graph: Graph, heads: Sequence[str]) -> None:
        self.graph = graph
        self.weights = _weights(graph, heads)
        self.changes: dict[str, list[LowRank]] = {}
        self.replaced: dict[str, StoredTensor] = {}

    def add(self, adapter: LoraAdapter, scale: float) -> None:
        """Add what an adapter does.

        Raises:
            PassError: if it does not fit the model, or does what cannot be merged with another adapter.
        """
        for change in adapter.changes:
            end = self._end(adapter, f"{change.module}.weight", change.shape)
            if scale == 0:
                continue
            others = self.changes.setdefault(end.name, [])
            others.append(replace(change, scaling=change.scaling * scale))
            if len(others) > 1 and any(other.magnitude is not None for other in others):
                raise PassError(
                    f"{adapter.path} and another adapter both change {change.module!r}, one of them by DoRA",
                    hint="merge one at a time",
                )
            if change.magnitude is not None and scale != 1:
                raise PassError(
                    f"{adapter.path} changes {change.module!r} by DoRA, which no factor scales", hint="leave scale out"
                )
        for tensor, stored in adapter.replaced.items():
            end = self._end(adapter, tensor, stored.shape)
            if end.name in self.replaced:
                raise PassError(
                    f"{adapter.path} and another adapter both have a {tensor!r} of their own", hint="leave one out"
                )
            self.replaced[end.name] = stored

    def visit(self, op: Op, b: RewriteBuilder) -> Replacement:
        """Change the last op of a weight that is replaced, changed, or both: an embedding is stored with its change."""
        changes, trained = self.changes.get(op.name, ()), self.replaced.get(op.name)
        if not changes and trained is None:
            return None
        if trained is not None:
            total = _stored(b, trained, "trained")
        else:
            own = op.operands[0] if op.kind.name == "cast" else b.again(op)
            assert isinstance(own, Value)
            total = own
        for change in changes:
            total = _changed(b, _wide(b, total, "f32"), change)
        dtype = op.result.type.dtype
        return total if total.type.dtype is dtype else b.cast(total, dtype=dtype, name="merged")

    def _end(self, adapter: LoraAdapter, tensor: str, shape: Sequence[int]) -> Value:
        """The value of a weight in the model's type, before anything is made of it."""
        name = _spelling(self.weights, tensor)
        if name is None:
            raise PassError(
                f"{adapter.path} changes {tensor!r}, which the model has not{did_you_mean(tensor, self.weights)}",
                hint=_OTHER,
            )
        end = self.weights[name]
        if end.type.shape != tuple(shape):
            raise PassError(
                f"{adapter.path} changes {tensor!r} as one of {shape_text(tuple(shape))}; the model's is "
                f"{shape_text(end.type.shape)}",
                hint=_OTHER,
            )
        return end


def _tables(graph: Graph) -> Mapping[str, Value]:
    """Tables that are the embedding and the head at once, by the names of the tensors."""
    both = {"embedding", "linear"}
    return {
        name: end
        for name, end in _weights(graph).items()
        if both <= {op.kind.name for op in graph.users.get(end.name, ())}
    }


def _parts_a_tie(graph: Graph, adapter: LoraAdapter) -> bool:
    """Whether an adapter changes one of an embedding and a head that the model has in common."""
    if adapter.keeps_ties:
        return False
    tables = _tables(graph)
    changed = [*(f"{change.module}.weight" for change in adapter.changes), *adapter.replaced]
    return bool(tables) and any(
        tensor.split(".")[-2:-1] in ([_HEAD], ["embed_out"]) or _spelling(tables, tensor) for tensor in changed
    )


def _untied(graph: Graph) -> tuple[Graph, tuple[str, ...]]:
    """The graph whose head has a table of its own, and the names of the constants that such tables begin with."""
    tables = {end.name for end in _tables(graph).values()}
    heads: list[str] = []

    def visit(op: Op, b: RewriteBuilder) -> Replacement:
        if op.kind.name != "linear" or op.operands[1].name not in tables:
            return None
        chain = [graph.producers[op.operands[1].name]]
        while chain[0].operands:
            chain.insert(0, graph.producers[chain[0].operands[0].name])
        made: tuple[Value, ...] = ()
        for step in chain:
            made = b.emit(step.kind, made, step.attrs, ("weight",))
            heads.extend(value.name for value in made if step is chain[0])
        x, _, *bias = op.operands
        return b.emit(op.kind, (x, *made, *bias), op.attrs)

    return sweep(graph, visit, pass_name=PASS_NAME), tuple(heads)


def _weights(graph: Graph, heads: Sequence[str] = ()) -> Mapping[str, Value]:
    """The weights of the checkpoint by name, in the model's type: past the cast and the transpose of stored ones.

    Those that begin with the constants `heads` are called as a head's is.
    """
    found: dict[str, Value] = {}
    for op in graph.ops:
        if op.kind.name not in ("const", "random"):
            continue
        value = op.result
        while True:
            users = graph.users.get(value.name, ())
            if len(users) != 1 or users[0].kind.name not in ("transpose", "cast"):
                break
            value = users[0].result
        name = str(op.attrs["data"].name if op.kind.name == "const" else op.attrs["key"])
        found[f"{_HEAD}.weight" if op.name in heads else name] = value
    return found


def _spelling(weights: Mapping[str, Value], tensor: str) -> str | None:
    """What a checkpoint calls a tensor of the model: it may leave out, or add, what all names begin with."""
    spellings = [tensor]
    for pair in _SPELLINGS:
        for old, new in (pair, pair[::-1]):
            if tensor.startswith(f"{old}."):
                spellings.append(new + tensor.removeprefix(old))
    for spelling in spellings:
        if spelling in weights:
            return spelling
    longer = [name for name in weights for s in spellings if name.endswith(f".{s}") or s.endswith(f".{name}")]
    return longer[0] if len(longer) == 1 else None


def _changed(b: RewriteBuilder, weight: Value, change: LowRank) -> Value:
    """The weight, float32, with a change added."""
    up = _wide(b, _stored(b, change.b, "b"), "b.f32")
    down = _wide(b, _stored(b, change.a, "a"), "a.f32")
    product = b.matmul(up, down, name="product")
    if change.embedding:
        product = b.transpose(product, perm=(1, 0), name="product.turned")
    total = b.add(weight, b.scale(product, factor=change.scaling, name="change"), name="sum")
    if change.magnitude is None:
        return total
    rows, width = change.shape
    norms = _wide(b, _stored(b, change.magnitude, "magnitude"), "magnitude.f32")
    # An RMS norm divides by the root of the mean of squares, which is the norm over the root of the width.
    column = b.scale(b.reshape(norms, shape=(rows, 1), name="norms"), factor=width**-0.5, name="column")
    return b.mul(b.rms_norm(total, eps=0.0, name="directions"), column, name="scaled")


def _stored(b: RewriteBuilder, tensor: StoredTensor, name: str) -> Value:
    value = b.const(data=tensor.ref(), name=name)
    return b.transpose(value, perm=tensor.perm, name=f"{name}.turned") if tensor.perm else value


def _wide(b: RewriteBuilder, value: Value, name: str) -> Value:
    return value if value.type.dtype is DType.f32 else b.cast(value, dtype=DType.f32, name=name)
