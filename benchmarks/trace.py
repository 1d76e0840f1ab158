"""How long a trace of a model of 20 billion parameters takes, as far as the graphs go, and how much memory it needs.

A graph as lifted is compared with the same quantized, sharded over two ranks and fused. In the shape of GPT-NeoX-20B
only the graphs are worked on: both are opened, and their values paired. Both then run with a hidden size of 64 and as
many layers, all weights made up, once over a short prompt and once over a long one.

    python benchmarks/trace.py
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import llmc
from benchmarks.lift import CONFIG
from llmc.tracing.graph_source import GraphSource
from llmc.tracing.pairs import find_pairs

PASSES = "quant=int8,tp=2,merge-linears,fuse-attention,cleanup"
SMALL = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256, "vocab_size": 1024}
PROMPTS = (16, 1024)


def checkpoint(folder: Path, **keys: Any) -> Path:
    """A checkpoint without weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, **keys}))
    return folder


def timed(words: str, work: Callable[[], Any]) -> Any:
    """What the work gives; prints how long it took, and the peak of memory so far."""
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{words:58} {seconds:7.2f} s   {peak:6.0f} MiB")
    return result


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as name:
        large = checkpoint(Path(name) / "large")
        graph = timed("lift 20B", lambda: llmc.lift(large, dummy_weights=True))
        changed = timed(f"{PASSES}", lambda: llmc.optimize(graph, PASSES).graph)
        print(f"{len(graph.ops)} ops, {len(changed.ops)} ops")
        sides = timed("open both for two virtual ranks", lambda: [GraphSource([g], "") for g in (changed, graph)])
        pairs = timed("pair their values", lambda: find_pairs(*sides))
        print(f"{len(pairs)} pairs")
        small = checkpoint(Path(name) / "small", **SMALL)
        lifted = llmc.lift(small, dummy_weights=True)
        rewritten = llmc.optimize(lifted, PASSES).graph
        file = Path(name) / "rewritten.ir"
        llmc.write_graph(replace(rewritten, root="."), file)
        for length in PROMPTS:
            prompt = [i % 1000 for i in range(length)]
            words = f"trace 44 layers of 64, {length} tokens"
            timed(words, lambda prompt=prompt: llmc.trace(file, small, prompt, dummy_weights=True))


if __name__ == "__main__":
    main()
