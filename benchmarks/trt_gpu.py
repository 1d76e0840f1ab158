"""Real TensorRT engines on a CUDA GPU: their tokens and logits beside the emulator's, and the speed of a 6B shape.

Run it with `python benchmarks/trt_gpu.py [CHECKPOINT ...] [--engines DIR] [--speed] [--transformers] [--compiled]`.
Checkpoints default to the bundled ones. `--engines` takes engines that another machine built (`NAME.TYPE.engine`);
what is missing there is built here, by the CPU. `--speed` measures decode steps and prefill of a GPT-J-6B shape with
made-up float16 weights (12 GB), beside the bound that reading the weights sets, and `--transformers` the eager decode
steps of transformers, `--compiled` those with torch.compile and a static cache.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from prompts import prompts
from torch_gpu import GPTJ_6B, MODELS, read_bandwidth

import llmc
from compiler.backend_trt import BuildOptions
from compiler.ir.step import Step
from runtime.executors.interface import Executor

BATCHES = (1, 8, 64)
CONTEXT = 128
CAPACITY = 256
PROMPT = 2048
STEPS = 40
PROMPTS = 16


def exactness(model: Path, dtype: str, engines: Path, temporary: Path) -> str:
    """The engine's tokens and logits on the GPU beside the emulator's, as a line."""
    engine = engines / f"{model.name}.{dtype}.engine"
    built = "elsewhere"
    if not engine.is_dir():
        built = "here"
        engine = llmc.compile(model, temporary / engine.name, dtype=dtype, target="tensorrt-rtx").path
    start = time.perf_counter()
    gpu = llmc.load(engine, executor="tensorrt")
    loaded = time.perf_counter() - start
    emulated = llmc.load(engine, executor="emulator")
    texts = prompts()[:PROMPTS]
    tokens = [[c.token_ids for c in e.generate(texts, max_new_tokens=32, ignore_eos=True)] for e in (gpu, emulated)]
    ids = list(range(3, 103))
    a, b = (e.logits(ids).double().cpu() for e in (gpu, emulated))
    error = ((a - b).norm() / b.norm()).item()
    equal = sum(x == y for x, y in zip(*tokens, strict=True))
    return (
        f"{model.name} {dtype}: {equal} of {len(texts)} prompts equal, logits {error:.1e}, "
        f"built {built}, loaded in {loaded:.1f} s"
    )


def milliseconds(run: Callable[[], object], times: int) -> float:
    """The median time of a run."""
    taken = []
    for _ in range(times):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3


def decode_step(executor: Executor, batch: int) -> float:
    """Milliseconds of a decode step after `CONTEXT` tokens."""
    session = executor.open(batch, CAPACITY)
    one = torch.ones(batch, dtype=torch.int32)
    step = Step(one[:, None].clone(), one * CONTEXT, one, torch.zeros(batch, 1, dtype=torch.int32))
    milliseconds(lambda: session.step(step), 5)
    return milliseconds(lambda: session.step(step), STEPS)


def prefill(executor: Executor, length: int) -> float:
    """Milliseconds from a prompt of `length` tokens to the logits of its last one."""
    session = executor.open(1, length)
    step = Step.prefill((torch.arange(length, dtype=torch.int32) % 1000)[None])
    milliseconds(lambda: session.step(step), 2)
    return milliseconds(lambda: session.step(step), 5)


def speed(folder: Path) -> None:
    """Decode and prefill of the 6B shape, from an engine built here."""
    (folder / "config.json").write_text(json.dumps(GPTJ_6B | {"n_positions": PROMPT + CAPACITY}))
    sizes = BuildOptions(batch_sizes=BATCHES, prompt_sizes=(256, PROMPT), capacities=(CAPACITY, PROMPT + CAPACITY))
    start = time.perf_counter()
    compiled = llmc.compile(
        folder, folder / "6b.engine", dummy_weights=True, target="tensorrt-rtx", build=sizes,
        max_batch=max(BATCHES), max_input=PROMPT, max_seq=PROMPT + CAPACITY,
    )  # fmt: skip
    times = ", ".join(f"{name} {taken:.0f} s" for name, taken in compiled.timings.items() if taken > 1)
    print(f"compiled in {time.perf_counter() - start:.0f} s ({times})", flush=True)
    parameters = int(compiled.manifest.model["parameters"]) - GPTJ_6B["vocab_size"] * GPTJ_6B["n_embd"]  # type: ignore[operator]
    for again in ("", " again"):
        start = time.perf_counter()
        executor = llmc.load(compiled.path, executor="tensorrt", verify=False).executor
        loaded = time.perf_counter() - start
        executor.open(1, PROMPT + CAPACITY)
        print(
            f"loaded{again} in {loaded:.1f} s, first session in {time.perf_counter() - start - loaded:.1f} s",
            flush=True,
        )
        if not again:
            print(f"the weights bound a step to {2 * parameters / read_bandwidth() * 1e3:.2f} ms", flush=True)
            for rows in BATCHES:
                print(f"llmc: batch {rows}: {decode_step(executor, rows):.2f} ms a step", flush=True)
            print(f"llmc: {PROMPT} tokens of prompt in {prefill(executor, PROMPT):.1f} ms", flush=True)
            print(f"llmc: 100 tokens of prompt in {prefill(executor, 100):.1f} ms", flush=True)
        del executor
        gc.collect()
        torch.cuda.empty_cache()


def eager(compiled: bool) -> None:
    """Decode steps and prefill of transformers, of the same shape."""
    from transformers import DynamicCache, GPTJConfig, GPTJForCausalLM, StaticCache

    config = GPTJConfig(**GPTJ_6B)
    with torch.device("meta"):
        model = GPTJForCausalLM(config).half()
    model = model.to_empty(device="cuda").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
        for buffer in model.buffers():
            buffer.zero_()
    name = "transformers, compiled" if compiled else "transformers, eager"
    forward = torch.compile(model.forward, mode="reduce-overhead") if compiled else model.forward
    for batch in BATCHES:
        cache = StaticCache(config=config, max_cache_len=CAPACITY) if compiled else DynamicCache(config=config)
        with torch.inference_mode():
            ids = torch.ones(batch, CONTEXT, dtype=torch.long, device="cuda")
            model(ids, past_key_values=cache, use_cache=True)
            token = ids[:, :1].clone()
            position = torch.tensor([CONTEXT], device="cuda")

            def step() -> None:
                forward(token, past_key_values=cache, use_cache=True, cache_position=position)  # noqa: B023
                position.add_(1)  # noqa: B023

            milliseconds(step, 8)
            print(f"{name}: batch {batch}: {milliseconds(step, STEPS):.2f} ms a step", flush=True)
    if not compiled:
        with torch.inference_mode():
            ids = torch.ones(1, PROMPT, dtype=torch.long, device="cuda")
            milliseconds(lambda: model(ids, logits_to_keep=1), 2)
            print(
                f"{name}: {PROMPT} tokens of prompt in {milliseconds(lambda: model(ids, logits_to_keep=1), 5):.1f} ms"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", type=Path, default=sorted(MODELS.glob("*-tiny")))
    parser.add_argument("--engines", type=Path, default=Path("engines"))
    parser.add_argument("--dtypes", default="float32,float16,bfloat16", help="empty to measure speed only")
    for flag in ("--speed", "--transformers", "--compiled"):
        parser.add_argument(flag, action="store_true")
    given = parser.parse_args()
    import tensorrt_rtx

    print(f"{torch.cuda.get_device_name()}, TensorRT-RTX {tensorrt_rtx.__version__}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as temporary:
        for model in given.checkpoints:
            for dtype in filter(None, given.dtypes.split(",")):
                print(exactness(model, dtype, given.engines, Path(temporary)), flush=True)
        if given.speed:
            speed(Path(temporary))
    if given.transformers:
        eager(compiled=False)
    if given.compiled:
        eager(compiled=True)


if __name__ == "__main__":
    main()
