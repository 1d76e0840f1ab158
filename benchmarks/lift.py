"""How long it takes to lift a model of 20 billion parameters, and how much memory.

Writes a GPT-NeoX-20B-shaped checkpoint whose data are holes (it takes next to no disk), lifts it in a process of its
own and prints time and peak memory beside what they should be. Lifting reads headers only, so the data do not matter.

    python benchmarks/lift.py
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

CONFIG = {
    "model_type": "gpt_neox",
    "architectures": ["GPTNeoXForCausalLM"],
    "vocab_size": 50432,
    "hidden_size": 6144,
    "num_hidden_layers": 44,
    "num_attention_heads": 64,
    "intermediate_size": 24576,
    "max_position_embeddings": 2048,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
}
LAYERS_A_SHARD = 5
AIM_SECONDS, AIM_MEGABYTES = 2.0, 400.0

CHILD = """
import json, resource, sys, time
start = time.perf_counter()
from compiler.frontends import lift, open_checkpoint
imported = time.perf_counter()
graph = lift(open_checkpoint(sys.argv[1]))
done = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([imported - start, done - imported, peak, len(graph.ops), graph.facts["parameters"]]))
"""


def shapes() -> list[dict[str, tuple[int, ...]]]:
    """Name and shape of the tensors of each shard."""
    h, inner, vocab = (int(str(CONFIG[key])) for key in ("hidden_size", "intermediate_size", "vocab_size"))
    tensors: list[tuple[str, tuple[int, ...]]] = [("gpt_neox.embed_in.weight", (vocab, h))]
    for i in range(int(str(CONFIG["num_hidden_layers"]))):
        layer = f"gpt_neox.layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors += [(f"{layer}.{norm}.weight", (h,)), (f"{layer}.{norm}.bias", (h,))]
        linears = {
            "attention.query_key_value": (3 * h, h),
            "attention.dense": (h, h),
            "mlp.dense_h_to_4h": (inner, h),
            "mlp.dense_4h_to_h": (h, inner),
        }
        for name, shape in linears.items():
            tensors += [(f"{layer}.{name}.weight", shape), (f"{layer}.{name}.bias", shape[:1])]
    tensors += [("gpt_neox.final_layer_norm.weight", (h,)), ("gpt_neox.final_layer_norm.bias", (h,))]
    tensors += [("embed_out.weight", (vocab, h))]
    size = 12 * LAYERS_A_SHARD
    return [dict(tensors[at : at + size]) for at in range(0, len(tensors), size)]


def write_checkpoint(folder: Path) -> int:
    """Write the checkpoint; returns how many bytes its files claim."""
    shards, index, total = shapes(), {}, 0
    for number, tensors in enumerate(shards, 1):
        file, header, at = f"model-{number:05}-of-{len(shards):05}.safetensors", {}, 0
        for name, shape in tensors.items():
            end = at + 2 * math.prod(shape)
            header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, end]}
            index[name], at = file, end
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + at)
        total += at
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return total


def main() -> None:
    """Measure and print; exit status 1 if an aim is missed."""
    with tempfile.TemporaryDirectory() as name:
        total = write_checkpoint(Path(name))
        child = [sys.executable, "-c", CHILD, name]
        root = Path(__file__).resolve().parent.parent
        output = subprocess.run(child, cwd=root, check=True, capture_output=True, text=True).stdout
    importing, lifting, peak, ops, parameters = json.loads(output)
    print(f"GPT-NeoX-20B shape: {parameters / 1e9:.1f} billion parameters, {total / 1e9:.1f} GB, {ops} ops")
    print(f"{'':24}{'measured':>10}{'aim':>10}")
    print(f"{'import (s)':24}{importing:10.2f}")
    print(f"{'lift (s)':24}{lifting:10.2f}")
    print(f"{'together (s)':24}{importing + lifting:10.2f}{AIM_SECONDS:10.1f}")
    print(f"{'peak memory (MB)':24}{peak:10.0f}{AIM_MEGABYTES:10.0f}")
    if importing + lifting > AIM_SECONDS or peak > AIM_MEGABYTES:
        sys.exit(1)


if __name__ == "__main__":
    main()
