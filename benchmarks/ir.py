"""Speed of the IR on a large graph: verifying, rewriting, printing and parsing 50,000 ops, on one core.

Run it with `python benchmarks/ir.py`.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence

from compiler.ir.builder import Builder
from compiler.ir.cache_layout import LINEAR, cache_name
from compiler.ir.dims import Shape
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange, Graph
from compiler.ir.op import Op, Value
from compiler.ir.parser import parse_graph
from compiler.ir.printer import print_graph
from compiler.ir.rewrite import RewriteBuilder, sweep
from compiler.ir.step import NEW_LEN, PAST_LEN, TOKEN_IDS, B, S, StepDim
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.types import TensorType
from compiler.ir.verifier import verify

OPS = 50_000
REPEATS = 5
HIDDEN, HEADS, WIDTH, CAPACITY, VOCABULARY = 1024, 16, 64, 2048, 32_000
CACHE_SHAPE: Shape = LINEAR.shaped(B, HEADS, CAPACITY, WIDTH)


class Layers:
    """Builds pre-norm transformer layers with a fused QKV, rotary embedding and a KV cache."""

    def __init__(self) -> None:
        self.b = Builder("gpt_neox")
        self.b.dims = {StepDim.BATCH: DimRange(1, 4, 8), StepDim.LENGTH: DimRange(1, 1, 512)}
        self.b.facts = {"family": "gpt_neox", "vocab_size": VOCABULARY}
        self.offset = 4096
        self.past = self.b.input(PAST_LEN, DType.i32, B)
        self.count = self.b.input(NEW_LEN, DType.i32, B)
        self.cos = self.b.input("cos", DType.f32, B, S, WIDTH // 8)
        self.sin = self.b.input("sin", DType.f32, B, S, WIDTH // 8)
        self.mask = self.b.input("mask", DType.bool, B, 1, S, CAPACITY)

    def weight(self, module: str, name: str, *shape: int) -> Value:
        """A constant of the checkpoint."""
        type_ = TensorType(DType.f16, shape)
        ref = TensorRef(type_, f"{module}.{name}", f"model-{self.offset >> 32:05d}-of-00008.safetensors", self.offset)
        self.offset += type_.nbytes
        return self.b.const(data=ref, name=name)

    def linear(self, x: Value, module: str, scope: str, inputs: int, outputs: int) -> Value:
        """A linear op with bias."""
        with self.b.scope(scope):
            weight = self.weight(module, "weight", outputs, inputs)
            bias = self.weight(module, "bias", outputs)
        return self.b.linear(x, weight, bias, name=scope)

    def norm(self, x: Value, module: str, scope: str) -> Value:
        """A layer norm."""
        with self.b.scope(scope, module):
            weight, bias = self.weight(module, "weight", HIDDEN), self.weight(module, "bias", HIDDEN)
            return self.b.layer_norm(x, weight, bias, eps=1e-6, name="out")

    def heads(self, x: Value, name: str) -> Value:
        """`[B, S, H]` to `[B, heads, S, D]`."""
        split = self.b.reshape(x, shape=(B, S, HEADS, WIDTH), name=f"{name}.split")
        return self.b.transpose(split, perm=(0, 2, 1, 3), name=f"{name}.heads")

    def attention(self, x: Value, layer: int, module: str) -> Value:
        """Attention through a cache."""
        b = self.b
        k_cache, v_cache = (b.input(cache_name(layer, n), DType.f16, *CACHE_SHAPE) for n in "kv")
        with b.scope("attn", module):
            qkv = self.linear(x, f"{module}.query_key_value", "qkv", HIDDEN, 3 * HIDDEN)
            parts = b.split(qkv, axis=-1, sizes=(HIDDEN,) * 3, names=("q", "k", "v"))
            q, k, v = (self.heads(part, name) for part, name in zip(parts, "qkv", strict=True))
            q, k = (b.rotary(part, self.cos, self.sin, name=f"{n}.rotated") for part, n in ((q, "q"), (k, "k")))
            keys = b.kv_update(k_cache, k, self.past, self.count, name="k_cache")
            values = b.kv_update(v_cache, v, self.past, self.count, name="v_cache")
            scores = b.scale(b.matmul(q, keys, transpose_b=True, name="qk"), factor=WIDTH**-0.5, name="scaled")
            low = b.literal(dtype=DType.f16, shape=(), values=(float("-inf"),), name="low")
            weights = b.softmax(b.where(self.mask, scores, low, name="masked"), name="weights")
            mixed = b.transpose(b.matmul(weights, values, name="mixed"), perm=(0, 2, 1, 3), name="mixed.heads")
            joined = b.reshape(mixed, shape=(B, S, HIDDEN), name="joined")
            b.output(cache_name(layer, "k"), keys)
            b.output(cache_name(layer, "v"), values)
            return self.linear(joined, f"{module}.dense", "out", HIDDEN, HIDDEN)

    def layer(self, x: Value, layer: int) -> Value:
        """A residual layer."""
        b, module = self.b, f"gpt_neox.layers.{layer}"
        with b.scope(f"layers.{layer}", module):
            normed = self.norm(x, f"{module}.input_layernorm", "ln1")
            x = b.add(x, self.attention(normed, layer, f"{module}.attention"), name="attended")
            normed = self.norm(x, f"{module}.post_attention_layernorm", "ln2")
            with b.scope("mlp", f"{module}.mlp"):
                wide = self.linear(normed, f"{module}.mlp.dense_h_to_4h", "up", HIDDEN, 4 * HIDDEN)
                narrow = self.linear(
                    b.gelu(wide, name="act"), f"{module}.mlp.dense_4h_to_h", "down", 4 * HIDDEN, HIDDEN
                )
            return b.add(x, narrow, name="out")


def transformer(ops: int) -> Graph:
    """A decoder of at least `ops` ops."""
    model = Layers()
    ids = model.b.input(TOKEN_IDS, DType.i32, B, S)
    with model.b.scope("embed", "gpt_neox.embed_in"):
        table = model.weight("gpt_neox.embed_in", "weight", VOCABULARY, HIDDEN)
        x = model.b.embedding(table, ids, name="out")
    layer = 0
    while len(model.b.ops) < ops:
        x = model.layer(x, layer)
        layer += 1
    model.b.output("hidden", model.norm(x, "gpt_neox.final_layer_norm", "final_ln"))
    return model.b.build()


def rebuilt(op: Op, b: RewriteBuilder) -> Sequence[Value]:
    """Replaces every op by a new one of its kind."""
    return b.emit(op.kind, op.operands, op.attrs, ("new",) * len(op.results))


def seconds(run: Callable[[], object]) -> float:
    """The median time of a few runs, without the garbage of the run before."""
    times = []
    for _ in range(REPEATS):
        gc.collect()
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    graph = transformer(OPS)
    text = print_graph(graph)
    if parse_graph(text) != graph:
        raise SystemExit("the graph does not survive printing and parsing")
    rows: list[tuple[str, Callable[[], object], float]] = [
        ("verify", lambda: verify(graph), 0.1),
        ("no-op sweep", lambda: sweep(graph, lambda op, b: None), 0.1),
        ("full rewrite", lambda: sweep(graph, rebuilt, pass_name="rebuilt"), 0.5),
        ("print", lambda: print_graph(graph), 0.4),
        ("parse", lambda: parse_graph(text), 1.0),
    ]
    print(f"{len(graph.ops)} ops, {len(text) / 1e6:.1f} MB of text; median of {REPEATS}")
    print(f"{'':12} {'seconds':>8} {'aim':>6} {'µs an op':>9}")
    for name, run, aim in rows:
        taken = seconds(run)
        print(f"{name:12} {taken:8.3f} {aim:6.1f} {taken / len(graph.ops) * 1e6:9.1f}")


if __name__ == "__main__":
    main()
