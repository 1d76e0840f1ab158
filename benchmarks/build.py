"""Time and peak memory of building TensorRT-RTX engines: `python benchmarks/build.py [125m 1.3b 2.7b] [--target T]`.

Each OPT shape is compiled with made-up float16 weights by a process of its own, which takes no plan from earlier
builds, beside the bytes of its weights. Memory is what the process holds at most, without the pages of mapped files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SHAPES = {
    "125m": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "1.3b": {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32},
    "2.7b": {"hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32},
}
_COMPILE = """
import json, sys, llmc
from compiler.backend_trt import BuildOptions
done = llmc.compile(sys.argv[1], sys.argv[2], target=sys.argv[3], passes=sys.argv[4],
                    dummy_weights=True, build=BuildOptions(reuse=False))
files = done.manifest.files
print(json.dumps({"timings": dict(done.timings), "plans": sum(name.endswith(".engine") for name in files),
                  "plan_bytes": sum(f.bytes for name, f in files.items() if name.endswith(".engine")),
                  "weights": sum(f.bytes for name, f in files.items() if name.endswith(".safetensors"))}))
"""


def config(shape: dict[str, int]) -> dict[str, object]:
    """An OPT configuration of a shape."""
    return {
        "model_type": "opt", "architectures": ["OPTForCausalLM"], "vocab_size": 50272,
        "ffn_dim": 4 * shape["hidden_size"],
        "word_embed_proj_dim": shape["hidden_size"], "max_position_embeddings": 2048, "do_layer_norm_before": True,
        "activation_function": "relu", "torch_dtype": "float16", "bos_token_id": 2, "eos_token_id": 2, **shape,
    }  # fmt: skip


def anonymous_bytes(process: int) -> int:
    """What a process holds that no file backs; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def measure(folder: Path, target: str, passes: str = "") -> dict[str, Any]:
    """Compile the `config.json` of a folder in a process of its own; returns the figures."""
    command = [sys.executable, "-c", _COMPILE, str(folder), str(folder / "engine"), target, passes]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "2"})
    peak = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            peak = max(peak, anonymous_bytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = process.communicate()[0]
    ended.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"compiling {folder} failed")
    figures = json.loads(output.splitlines()[-1])
    build = sum(seconds for stage, seconds in figures["timings"].items() if stage.startswith("build"))
    return {"seconds": time.perf_counter() - started, "build": build, "peak": peak, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", choices=[*SHAPES, []], default=list(SHAPES))
    parser.add_argument("--target", default="tensorrt-rtx")
    given = parser.parse_args()
    table = Table(
        "shape", "weights", "plans", "their bytes", "whole compile", "plans built in", "peak memory", "/ weights"
    )
    for name in given.shapes:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(config(SHAPES[name])))
            figures = measure(Path(folder), given.target)
        table.add_row(
            f"OPT-{name}",
            f"{figures['weights'] / 1e6:.0f} MB",
            f"{figures['plans']}",
            f"{figures['plan_bytes'] / 1e6:.0f} MB",
            f"{figures['seconds']:.1f} s",
            f"{figures['build']:.1f} s",
            f"{figures['peak'] / 1e6:.0f} MB",
            f"{figures['peak'] / figures['weights']:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
