"""Serving a mixed load: in-flight batching beside static batching, and what the scheduler itself costs.

`python benchmarks/serving.py [MODEL] [--requests N] [--device D]`: requests with prompts of 16 to 256 tokens and
outputs of 8 to 128 arrive at random times (Poisson). Both ways serve the same requests with the same engine in one run:

- in flight: `engine.submit` and `engine.step`; a request enters as soon as it is there and a row is free;
- in flight, paged: the same on an engine with `cache=paged`, whose steps take prompts and texts in progress together;
- static: `engine.generate` of as many requests as wait, up to the engine's batch; the next batch waits for all of them.

It prints tokens per second of the whole, and of each request the time to its first token and the time per further
token. MODEL is a checkpoint; without one, a model of 34 M parameters is made up. `--scheduler` measures only what the
scheduler costs: steps of 64 sequences over a session that computes nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import llmc
from compiler.ir.packed_step import PackedStep
from compiler.ir.step import Step
from runtime.generation.engine import Engine
from runtime.generation.groups import GroupMaker
from runtime.generation.in_flight import InFlightBatch
from runtime.generation.session_steps import BlockSteps, RowSteps

CONFIG = {
    "model_type": "gpt_neox", "hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 8,
    "intermediate_size": 2048, "vocab_size": 8192, "max_position_embeddings": 1024, "rotary_pct": 0.25,
    "rotary_emb_base": 10000, "hidden_act": "gelu", "layer_norm_eps": 1e-5, "use_parallel_residual": True,
    "tie_word_embeddings": False, "torch_dtype": "float32", "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
BATCH, LONGEST = 16, 384


@dataclass
class Served:
    """One request: when it came, and when its tokens did."""

    prompt: list[int]
    new_tokens: int
    arrival: float
    times: list[float] = field(default_factory=list)

    @property
    def first(self) -> float:
        """Seconds from its arrival to its first token."""
        return self.times[0] - self.arrival

    @property
    def per_token(self) -> float:
        """Seconds per token after the first."""
        return (self.times[-1] - self.times[0]) / max(1, len(self.times) - 1)


def load_of(count: int, vocabulary: int, rate: float, seed: int = 0) -> list[Served]:
    """Requests with random prompts and lengths, and random gaps of `1 / rate` seconds on average between them."""
    draw = random.Random(seed)
    arrival, requests = 0.0, []
    for _ in range(count):
        arrival += draw.expovariate(rate)
        prompt = [draw.randrange(1, vocabulary) for _ in range(draw.randrange(16, 257))]
        requests.append(Served(prompt, draw.randrange(8, 129), arrival))
    return requests


def in_flight(engine: Engine, requests: list[Served]) -> float:
    """Serve as requests come; returns how long it took."""
    waiting, by_group = list(requests), {}
    start = time.perf_counter()
    while waiting or not engine.is_idle:
        now = time.perf_counter() - start
        while waiting and waiting[0].arrival <= now:
            request = waiting.pop(0)
            group = engine.submit(request.prompt, max_new_tokens=request.new_tokens, ignore_eos=True)
            by_group[group] = request
        if engine.is_idle:
            time.sleep(max(0.0, waiting[0].arrival - now))
            continue
        for update in engine.step():
            if update.token_id is not None:
                by_group[update.group].times.append(time.perf_counter() - start)
    return time.perf_counter() - start


def static(engine: Engine, requests: list[Served]) -> float:
    """Serve batch by batch; returns how long it took."""
    waiting = list(requests)
    start = time.perf_counter()
    while waiting:
        now = time.perf_counter() - start
        batch = [request for request in waiting if request.arrival <= now][:BATCH]
        if not batch:
            time.sleep(max(0.0, waiting[0].arrival - now))
            continue
        waiting = waiting[len(batch) :]
        # A static batch runs until its longest request has ended: shorter ones keep their rows until then.
        longest = max(request.new_tokens for request in batch)
        prompts = [request.prompt for request in batch]

        def came(number: int, token: int, batch: list[Served] = batch) -> None:
            if len(batch[number].times) < batch[number].new_tokens:
                batch[number].times.append(time.perf_counter() - start)

        engine.generate(prompts, max_new_tokens=longest, ignore_eos=True, on_token=came)
    return time.perf_counter() - start


class _Nothing:
    """A linear session that computes nothing."""

    packs_tokens = False

    def __init__(self, batch: int, capacity: int, vocabulary: int = 64) -> None:
        self.batch, self.capacity = batch, capacity
        self._logits = torch.zeros(batch, 1, vocabulary)

    def step(self, step: Step, first_row: int = 0) -> torch.Tensor:
        return self._logits[: step.batch]

    def copy_rows(self, sources: Any, destinations: Any) -> None:
        return


class _NothingPaged:
    """A paged session that computes nothing."""

    def __init__(self, blocks: int, block: int, vocabulary: int = 64) -> None:
        self.blocks, self.block = blocks, block
        self._logits = torch.zeros(64, vocabulary)

    def step(self, step: PackedStep) -> torch.Tensor:
        return self._logits[: step.wanted]

    def copy_blocks(self, sources: Any, destinations: Any) -> None:
        return


def scheduler_cost(
    engine: Engine, sequences: int = 64, steps: int = 400, *, paged: bool = False
) -> tuple[float, float]:
    """Microseconds per step of planning alone, and of all that is not the model, for sequences that decode."""
    if paged:
        batch = InFlightBatch.over(BlockSteps(_NothingPaged(sequences * 32, 64), sequences=sequences, longest=2048))
    else:
        batch = InFlightBatch.over(RowSteps(_Nothing(sequences, 2048)))
    maker = GroupMaker(engine.manifest, None, lambda prompt, number: list(map(int, prompt)), lambda text: None)
    params = llmc.SamplingParams(max_new_tokens=engine.manifest.limits.max_seq - 8, ignore_eos=True)
    for number in range(sequences):
        batch.scheduler.add(maker.make(number, [number + 1, 2], params))
    for _ in range(8):
        batch.step()
    planning, everything = [], []
    for _ in range(min(steps, engine.manifest.limits.max_seq - 40)):
        start = time.perf_counter()
        batch.scheduler.plan()
        planned = time.perf_counter()
        batch.step()
        planning.append(planned - start)
        everything.append(time.perf_counter() - planned)
    return statistics.median(planning) * 1e6, statistics.median(everything) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument(
        "--rate", type=float, help="requests per second; four times what one at a time takes if not given"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--scheduler", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        model = given.model or Path(temporary) / "model"
        if given.model is None:
            model.mkdir()
            (model / "config.json").write_text(json.dumps(CONFIG))
        options: Any = {"target": "torch", "dtype": given.dtype, "max_batch": BATCH, "max_seq": LONGEST}
        options["dummy_weights"] = given.model is None
        linear, paged = (
            llmc.compile(model, Path(temporary) / (passes or "linear"), passes=passes, **options).path
            for passes in ("", "cache=paged")
        )
        engine, packing = (llmc.load(path, executor="torch", device=given.device) for path in (linear, paged))
        console = Console()
        for name, over_blocks in (("rows", False), ("blocks", True)):
            planning, everything = scheduler_cost(engine, paged=over_blocks)
            console.print(
                f"scheduler, 64 sequences over {name}: {planning:.0f} µs of planning, "
                f"{everything:.0f} µs a step with nothing computed"
            )
        if given.scheduler:
            return
        for each in (engine, packing):
            in_flight(each, load_of(1, engine.manifest.vocab_size, 100.0, seed=9))
        alone = in_flight(engine, load_of(2, engine.manifest.vocab_size, 100.0, seed=9)) / 2
        rate = given.rate or 4 / alone
        table = Table(
            title=f"{given.requests} requests, {rate:.1f} per second, {engine.executor.name} on {given.device}"
        )
        for column in ("", "tokens/s", "first token s (median)", "(95 %)", "ms per token (median)"):
            table.add_column(column, justify="right")
        rates = {}
        ways = {"static": (static, engine), "in flight": (in_flight, engine), "in flight, paged": (in_flight, packing)}
        for name, (serve, served) in ways.items():
            requests = load_of(given.requests, engine.manifest.vocab_size, rate)
            seconds = serve(served, requests)
            rates[name] = sum(request.new_tokens for request in requests) / seconds
            firsts = sorted(request.first for request in requests)
            late = firsts[int(0.95 * (len(firsts) - 1))]
            per = statistics.median(request.per_token for request in requests) * 1e3
            table.add_row(name, f"{rates[name]:.1f}", f"{statistics.median(firsts):.2f}", f"{late:.2f}", f"{per:.1f}")
        console.print(table)
        for name in ("in flight", "in flight, paged"):
            console.print(f"{name} / static: {rates[name] / rates['static']:.2f}")


if __name__ == "__main__":
    main()
