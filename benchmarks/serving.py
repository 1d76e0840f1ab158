"""Serving a mixed load: in-flight batching beside static batching and transformers' continuous batching.

`python benchmarks/serving.py [--model M] [--requests N] [--rate R] [--device D] [--json]`: requests with prompts of
16 to 512 tokens and outputs of 8 to 256 arrive at random times (Poisson). The same requests are served by turns:

- static: llmc, in groups of the batch's size in the order of arrival, padded, each until its longest text has ended;
- in flight: llmc, `Engine.submit` and `Engine.step`; requests enter and leave at any step;
- in flight, paged: the same over paged caches, whose steps take prompts and texts in progress together;
- transformers: its `ContinuousBatchingManager`, with as many sequences, cached tokens and tokens per step.

It prints the tokens per second of the whole, and over requests the time from arrival to the first token and the time
per further token, as medians and 95th percentiles; of several turns the median. The last column says how many requests
got the tokens that static batching gave them: in float32 all should, in 16 bits rounding decides some.

A model is a checkpoint folder, or the name of a shape with random weights. Where transformers' batching cannot run, the
script says why and goes on. `--scheduler` measures only what the scheduler costs: steps of 64 sequences over a session
that computes nothing. `--profile` serves three more loads in flight and says where the time goes: steps by kind, the
host's work by part, kernels that were compiled, and the share of the time in which the GPU was busy.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # as llmc.load does; before torch, so that both sides have it

import torch
import transformers
from rich.console import Console
from rich.table import Table
from scheduler_cost import scheduler_cost
from serving_load import Figures, Lengths, load_of
from serving_profile import profile
from serving_ways import InFlight, Static, Way, continuous_batching
from transformers import AutoModelForCausalLM, GPTNeoXConfig

import llmc
from compiler.ir.paged import DEFAULT_BLOCK
from runtime.executors.paged import STEP_TOKENS
from runtime.executors.torch.executor import TorchExecutor
from runtime.generation.engine import Engine

SHAPES = {
    "neox-3m": {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 8192},
    "neox-110m": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 16384},
    "neox-1.4b": {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 50304},
}


@dataclass(frozen=True)
class Opened:
    """A model, ready to be served in each way.

    Attributes:
        ways: the ways, by name.
        engine: llmc's engine.
        notes: what is to be said about them.
    """

    ways: Mapping[str, Way]
    engine: Engine
    notes: list[str]


def shaped(name: str, device: str, dtype: torch.dtype) -> Any:
    """A GPT-NeoX of one of the shapes, with random weights."""
    shape = SHAPES[name]
    config = GPTNeoXConfig(
        **shape, intermediate_size=4 * shape["hidden_size"], max_position_embeddings=2048, rotary_pct=0.25,
        bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


@contextlib.contextmanager
def opened(model: str, device: str, dtype: str, batch: int, prompts: int | None = None) -> Iterator[Opened]:
    """Make all ways to serve a model; steps with prompts of up to `prompts` tokens are captured, if that is given."""
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = Path(model)
        if model in SHAPES:
            folder = Path(temporary) / "model"
            theirs = shaped(model, device, getattr(torch, dtype))
            theirs.save_pretrained(folder)
        else:
            theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval().to(device)
        longest = Lengths.within(int(llmc.lift(folder).facts["context_length"])).longest
        options: Any = {"target": "torch", "dtype": dtype, "max_batch": batch, "max_seq": longest}
        path = llmc.compile(folder, Path(temporary) / "engine", **options).path
        engine = llmc.load(path, executor="auto", device=device, verify=False)
        if prompts is not None:
            engine.executor.captured_prompts = prompts  # type: ignore[attr-defined]
        engine.warm_up()
        static = Static(engine.executor, batch, longest)  # which takes over what has been warmed up
        ways: dict[str, Way] = {"static": static, "in flight": InFlight(engine)}
        if engine.executor.name == "torch":  # the executor of GPUs has paged caches in any case
            paged = TorchExecutor.load(path / "rank0.ir", device=device, block=DEFAULT_BLOCK)
            ways["in flight, paged"] = InFlight(Engine(path, engine.manifest, paged, None))
        notes = []
        gc.collect()
        gc.freeze()  # what is there now is not looked through any more, as in a server that is warm
        try:
            way = stack.enter_context(continuous_batching(theirs, batch, longest, STEP_TOKENS))
            ways["transformers"] = way
            notes.append(f"transformers {transformers.__version__} chose {way.words}")
        except RuntimeError as error:
            notes.append(f"transformers' continuous batching does not run here: {error}")
        yield Opened(ways, engine, notes)


@dataclass
class Measured:
    """What turns have shown: figures by way, and the share of requests that got the tokens of static batching."""

    turns: dict[str, list[Figures]]
    same: dict[str, list[float]]

    @property
    def median(self) -> dict[str, Figures]:
        """Of each way the median of its turns."""
        return {name: Figures.median(figures) for name, figures in self.turns.items()}


def measure(made: Opened, count: int, rate: float, lengths: Lengths, turns: int, seconds: float) -> Measured:
    """Serve a load in each way by turns, each turn another load: what has been served may be in the caches still.

    Args:
        made: the ways.
        count: how many requests a load has.
        rate: how many come per second.
        lengths: of prompts and outputs.
        turns: how many turns at most.
        seconds: another turn begins only if it will probably have ended by then.
    """
    names = list(made.ways)
    found = Measured({name: [] for name in names}, {name: [] for name in names})
    start = time.perf_counter()
    for turn in range(turns):
        spent = time.perf_counter() - start
        if turn and spent + spent / turn > seconds:
            break
        tokens: dict[str, list[list[int]]] = {}
        for name in names if turn % 2 == 0 else reversed(names):
            load = load_of(count, made.engine.manifest.vocab_size, rate, lengths, seed=turn)
            found.turns[name].append(Figures.of(load, made.ways[name].serve(load)))
            tokens[name] = [request.tokens for request in load]
        for name in names:
            equal = sum(one == other for one, other in zip(tokens[name], tokens["static"], strict=True))
            found.same[name].append(equal / count)
    return found


def step_times(made: Opened, batch: int, lengths: Lengths) -> dict[str, float]:
    """About how many seconds each way takes for a token of a full batch; all has been warmed up then."""
    found = {}
    for name, way in made.ways.items():
        vocabulary = made.engine.manifest.vocab_size
        if name == "in flight":
            made.engine.warm_up()
        if torch.device(made.engine.executor.device).type == "cuda":  # type: ignore[attr-defined]
            way.serve(load_of(batch, vocabulary, float("inf"), Lengths(lengths.prompt, (4, 8)), seed=1000))
        load = load_of(batch, vocabulary, float("inf"), Lengths((16, 24), (12, 12)), seed=1001)
        way.serve(load)
        found[name] = statistics.median((each.times[-1] - each.times[1]) / (len(each.times) - 2) for each in load)
    return found


def requests_within(seconds: float, steps: dict[str, float], batch: int, lengths: Lengths) -> int:
    """How many requests all ways together serve in about so many seconds: a batch at least, and four at most."""
    # Static batching computes about as many tokens again; prompts take about half as long as what follows them.
    shares = {name: 2.0 if name == "static" else 1.0 for name in steps}
    each = 1.5 * sum(lengths.mean_output / batch * steps[name] * share for name, share in shares.items())
    return max(batch, min(4 * batch, int(seconds / each)))


def table_of(found: Measured, title: str) -> Table:
    """The figures as a table."""
    table = Table(title=title)
    for column in ("", "tokens/s", "first token s", "95 %", "ms per token", "95 %", "tokens as static"):
        table.add_column(column, justify="right")
    for name, figures in found.median.items():
        (first, late), (each, slow) = figures.first_token_s, figures.ms_per_token
        same = f"{statistics.mean(found.same[name]):.0%}"
        rate = f"{figures.tokens_per_second:.1f}"
        table.add_row(name, rate, f"{first:.2f}", f"{late:.2f}", f"{each:.1f}", f"{slow:.1f}", same)
    return table


def notes_on(found: Measured, dtype: str) -> list[str]:
    """What is to be said about the tokens: in float32, a way that gives others computes another model."""
    return [
        f"{name} gives {1 - statistics.mean(same):.0%} of the requests other tokens: its figures mean nothing here"
        for name, same in found.same.items()
        if dtype == "float32" and statistics.mean(same) < 0.9
    ]


def ratios(found: Measured) -> dict[str, float]:
    """Tokens per second in flight over those of the others."""
    rates = {name: figures.tokens_per_second for name, figures in found.median.items()}
    ours, others = ("in flight", "in flight, paged"), ("static", "transformers")
    return {f"{a} / {b}": round(rates[a] / rates[b], 2) for a in ours for b in others if {a, b} <= {*rates}}


def _rate(text: str) -> float | None:
    if text == "auto":
        return None
    rate = float("inf") if text == "all" else float(text)
    if not rate > 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return rate


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="neox-110m", help=f"a checkpoint folder, or one of {', '.join(SHAPES)}")
    parser.add_argument("--requests", type=int, help="if not given, as many as can be served in --seconds")
    rate = "requests per second; all: all come at once; auto: half as many again as are probably served"
    parser.add_argument("--rate", type=_rate, default="auto", help=rate)
    parser.add_argument("--batch", type=int, default=16, help="how many sequences run at once")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", help="float32 on a CPU and float16 on a GPU, if not given")
    parser.add_argument("--turns", type=int, default=3, help="how often each way serves a load, at most")
    parser.add_argument(
        "--seconds", type=float, default=45.0, help="about how long to measure; one turn is made always"
    )
    parser.add_argument("--scheduler", action="store_true", help="measure only what the scheduler costs")
    parser.add_argument(
        "--captured-prompts", type=int, help="capture steps with prompts of up to so many tokens; 0: none of them"
    )
    parser.add_argument("--profile", action="store_true", help="say first where the time in flight goes")
    parser.add_argument("--json", action="store_true", help="print JSON; the table goes to standard error")
    given = parser.parse_args()
    if min(1 if given.requests is None else given.requests, given.batch, given.turns) < 1:
        parser.error("--requests, --batch and --turns must be at least 1")
    if given.model not in SHAPES and not Path(given.model).is_dir():
        parser.error(f"there is no folder {given.model}, and no such shape: {', '.join(SHAPES)}")
    given.dtype = given.dtype or ("float16" if given.device.startswith("cuda") else "float32")
    return given


def main() -> None:
    given = arguments()
    transformers.utils.logging.disable_progress_bar()
    console = Console(stderr=given.json, width=110)
    started = time.perf_counter()
    with opened(given.model, given.device, given.dtype, given.batch, given.captured_prompts) as made:
        cost = {"rows": scheduler_cost(made.engine), "blocks": scheduler_cost(made.engine, paged=True)}
        for name, each in cost.items():
            console.print(
                f"scheduler, 64 sequences over {name}: {each['planning']} µs of planning, "
                f"{each['step']} µs a step without a model"
            )
        report: dict[str, Any] = {"scheduler_us": cost}
        if not given.scheduler:
            lengths = Lengths.within(int(made.engine.manifest.model["context_length"]))
            steps = step_times(made, given.batch, lengths)
            rate = given.rate or 1.5 * given.batch / (lengths.mean_output * steps["in flight"])
            count = given.requests or requests_within(given.seconds, steps, given.batch, lengths)
            if given.profile:
                report["profile"] = {}
                for title, turn in profile(made.ways["in flight"], made.engine, count, rate, lengths):
                    report["profile"][title] = turn.to_json()
                    for line in turn.lines(title):
                        console.print(line, highlight=False, soft_wrap=True)
            ready = time.perf_counter() - started
            found = measure(made, count, rate, lengths, given.turns, given.seconds)
            coming = "all at once" if rate == float("inf") else f"{rate:.1f} per second"
            turns = len(found.turns["static"])
            title = f"{given.model}, {given.dtype}, {given.device}: {count} requests, {coming}, {turns} turns"
            console.print(table_of(found, title))
            for name, ratio in ratios(found).items():
                console.print(f"{name}: {ratio:.2f}")
            notes = [*made.notes, *notes_on(found, given.dtype)]
            for note in notes:
                console.print(note, highlight=False)
            report |= {
                "model": given.model, "device": given.device, "dtype": given.dtype, "batch": given.batch,
                "gpu": torch.cuda.get_device_name() if given.device.startswith("cuda") else None,
                "torch": torch.__version__, "transformers": transformers.__version__,
                "requests": count, "rate": None if rate == float("inf") else round(rate, 3), "turns": turns,
                "prompt": lengths.prompt, "output": lengths.output, "seconds_to_get_ready": round(ready, 1),
                "ways": {
                    name: {**figures.to_json(), "as_static": round(statistics.mean(found.same[name]), 4)}
                    for name, figures in found.median.items()
                },
                "ratios": ratios(found), "notes": notes,
            }  # fmt: skip
    if given.json:
        json.dump(report, sys.stdout, indent=1)
        print()


if __name__ == "__main__":
    main()
