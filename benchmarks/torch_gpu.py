"""The torch executor on a CUDA GPU: its tokens beside the CPU's, and decode steps of a 6B-parameter shape.

Run it with `python benchmarks/torch_gpu.py`. The tokens are those of the example checkpoints in float32; the speed is
that of a GPT-J-6B-shaped model with made-up float16 weights (12 GB), beside the bound that reading the weights sets.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from prompts import prompts

import llmc
from runtime.generation.engine import Engine

MODELS = Path(__file__).parents[1] / "examples" / "models"
GPTJ_6B = {
    "model_type": "gptj",
    "n_embd": 4096,
    "n_layer": 28,
    "n_head": 16,
    "rotary_dim": 64,
    "vocab_size": 50400,
    "n_positions": 2048,
    "dtype": "float16",
}
NEW = 32


def same_tokens(model: Path, folder: Path) -> tuple[int, int]:
    """Of how many prompts the GPU's tokens are the CPU's, and how many there are."""
    engine = llmc.compile(model, folder / model.name, dtype="float32").path
    gpu, cpu = (
        [c.token_ids for c in llmc.load(engine, device=device).generate(prompts(), max_new_tokens=48)]
        for device in ("cuda", "cpu")
    )
    return sum(a == b for a, b in zip(gpu, cpu, strict=True)), len(cpu)


def seconds(engine: Engine, batch: int, new_tokens: int) -> float:
    """The time to extend `batch` prompts of 128 tokens."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    engine.generate([list(range(1, 129))] * batch, max_new_tokens=new_tokens, ignore_eos=True)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def read_bandwidth() -> float:
    """Bytes a second at which the GPU sums a large array."""
    array = torch.ones(2**30, device="cuda")
    times = []
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        array.sum()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return array.nbytes / min(times)


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA GPU that torch can use")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for model in sorted(MODELS.glob("*-tiny")):
            equal, total = same_tokens(model, folder)
            print(f"{model.name}: {equal} of {total} as on the CPU", flush=True)
        (folder / "config.json").write_text(json.dumps(GPTJ_6B))
        compiled = llmc.compile(folder, folder / "6b", dummy_weights=True, max_batch=64)
        engine = llmc.load(compiled.path, device="cuda", verify=False)
        parameters = compiled.manifest.model["parameters"]
        assert isinstance(parameters, int)
        bound = 2 * (parameters - GPTJ_6B["vocab_size"] * GPTJ_6B["n_embd"]) / read_bandwidth()  # type: ignore[operator]
        print(f"GPT-J-6B shape, float16: the weights bound a step to {bound * 1e3:.2f} ms")
        for batch in (1, 8, 64):
            seconds(engine, batch, 4)
            step = (seconds(engine, batch, 4 + NEW) - seconds(engine, batch, 4)) / NEW
            print(f"batch {batch}: {step * 1e3:.2f} ms a step, {batch / step:.0f} tokens a second", flush=True)


if __name__ == "__main__":
    main()
