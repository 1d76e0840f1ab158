"""llmc, vLLM and transformers on one GPU: `python benchmarks/gpu.py`, or with `--shapes gptj-6b --recipes fp16,int8`.

For shapes of 6 to 7 billion parameters with random weights, all in one run and by the same formula: milliseconds a step
of each recipe and batch, as a user sees them, (t(128 new) - t(16 new)) / 112 after prompts of 128 tokens; with
`--prompt 2048` the time until the first new token of such a prompt; with `--requests 512` tokens a second. Beside them
stand what bounds a step, the bytes of the weights that it reads over the bandwidth of reading a large array, and what
share of the rate of a large product in float16 a prompt reaches; both are measured in the same run.

vLLM is measured where it can be imported, in a process of its own; `--vllm FOLDER` says where it lies. TensorRT is with
`--executors cuda,tensorrt`. That tokens are right is what `gpu_exactness.py` shows.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import gpu_vllm
import torch
from gpu_contenders import OURS, of_transformers, run_of, transformers
from gpu_limits import bandwidth, matrix_peak
from gpu_profile import profile
from gpu_shapes import RECIPES, SHAPES, prompt_operations
from gpu_timing import Figure, Load, What, measure
from rich.console import Console
from rich.table import Table

from compiler.ir.cost import weights_read

CONSOLE = Console(width=160)
say = partial(CONSOLE.print, highlight=False, markup=False)


@dataclass
class Entry:
    """A figure, and whose it is."""

    shape: str
    recipe: str
    who: str
    what: What
    batch: int
    value: float


@dataclass(frozen=True)
class Limits:
    """What bounds a shape's figures.

    Attributes:
        step_ms: the time of reading the weights.
        prompt_ms: the time of a prompt's operations at the rate of a large product in float16.
    """

    step_ms: float
    prompt_ms: float


class Measuring:
    """All that is measured of all shapes and recipes."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.entries: list[Entry] = []
        self.limits: dict[tuple[str, str], Limits] = {}
        self.reads, self.peak = bandwidth(), matrix_peak()
        torch.cuda.empty_cache()
        say(
            f"{torch.cuda.get_device_name()}, torch {torch.__version__}: reads {self.reads / 1e12:.2f} TB/s, "
            f"a product in float16 {self.peak / 1e12:.0f} TFLOP/s"
        )

    def load(self, shape: str) -> Load:
        """What is measured of a shape."""
        given = self.given
        return Load(SHAPES[shape]["vocab_size"], given.batches, given.prompt, given.requests, given.at_once)

    def all_of(self, shape: str, recipe: str, folder: Path) -> None:
        """Measure everything of a shape and a recipe; what fails is said, and leaves out its own figures only."""
        whos = [*self.given.executors, *(["vLLM"] if self.given.with_vllm else [])]
        whos += ["transformers"] if self.given.transformers and recipe == "fp16" else []
        for who in whos:
            began = time.perf_counter()
            try:
                for figure in self.figures(who, shape, recipe, folder / who):
                    entry = Entry(shape, recipe, who, *figure)
                    self.entries.append(entry)
                    say(f"{shape} {recipe} {who}: {told(entry)}")
            except Exception as error:  # noqa: BLE001 - the others are measured all the same
                say(f"{shape} {recipe} {who}: {type(error).__name__}: {str(error)[:400]}")
            gc.collect()
            torch.cuda.empty_cache()
            say(f"  ({time.perf_counter() - began:.0f} s)")

    def figures(self, who: str, shape: str, recipe: str, folder: Path) -> Iterator[Figure]:
        """The figures of one of them."""
        load = self.load(shape)
        if who == "vLLM":
            config = {**SHAPES[shape], "torch_dtype": "float16"}
            log = self.given.logs / f"vllm-{shape}-{recipe}.log"
            for found in gpu_vllm.figures(config, recipe, load, self.given.vllm, self.given.vllm_limit, log):
                if isinstance(found, str):
                    raise RuntimeError(found)
                yield found
        elif who == "transformers":
            with transformers(shape, recipe, folder, load) as run:
                yield from measure(run, of_transformers(load), warm=1)
        else:
            with OURS[who](shape, recipe, folder, load) as engine:
                if who == "cuda":
                    graph = engine.executor.graph  # type: ignore[attr-defined]
                    operations = prompt_operations(graph, self.given.prompt)
                    bound = Limits(weights_read(graph) / self.reads * 1e3, operations / self.peak * 1e3)
                    self.limits[shape, recipe] = bound
                    for line in engine.executor.explain() if self.given.profile else ():  # type: ignore[attr-defined]
                        say(f"  {line}")
                yield from measure(run_of(engine), load)
                for batch in self.given.batches if self.given.profile else ():
                    for line in profile(engine, batch):
                        say(line)

    def table(self) -> Table:
        """Who against whom; the ratio is vLLM's time over llmc's, or llmc's rate over vLLM's: above 1 llmc is ahead."""
        whos = list(dict.fromkeys(entry.who for entry in self.entries))
        table = Table("shape", "recipe", "", "bound", *whos, "vLLM : llmc", "of the bound")
        values = {(e.shape, e.recipe, e.what, e.batch, e.who): e.value for e in self.entries}
        for shape, recipe, what, batch in dict.fromkeys(key[:4] for key in values):
            row = {who: values.get((shape, recipe, what, batch, who)) for who in whos}
            best, bound = self._best(row, what), self._bound(shape, recipe, what)
            ratio = _ratio(row.get("vLLM"), best)
            if what == "throughput":
                ratio = _ratio(best, row.get("vLLM"))
            words = {"step": f"ms a step, batch {batch}", "prompt": f"ms, {self.given.prompt} tokens of prompt",
                     "throughput": f"tokens/s, {batch} at once"}  # fmt: skip
            numbers = [_number(row[who], what) for who in whos]
            share = _ratio(bound, best)
            table.add_row(shape, recipe, words[what], _number(bound, what), *numbers, _number(ratio, "step"),
                          "" if share is None else f"{share:.0%}")  # fmt: skip
        return table

    def _best(self, row: dict[str, float | None], what: What) -> float | None:
        """The better of llmc's own figures."""
        ours = [value for who, value in row.items() if who in OURS and value is not None]
        return (max if what == "throughput" else min)(ours, default=None)

    def _bound(self, shape: str, recipe: str, what: What) -> float | None:
        known = self.limits.get((shape, recipe))
        if known is None or what == "throughput":
            return None
        return known.step_ms if what == "step" else known.prompt_ms


def told(entry: Entry) -> str:
    """`batch 8: 4.31 ms a step`."""
    if entry.what == "throughput":
        return f"{entry.batch} at once: {entry.value:.0f} tokens/s"
    return f"batch {entry.batch}: {entry.value:.2f} ms {'a step' if entry.what == 'step' else 'to the first token'}"


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def _number(value: float | None, what: What) -> str:
    return "" if value is None else f"{value:.0f}" if what == "throughput" else f"{value:.2f}"


def names(known: dict[str, object] | dict[str, str]) -> object:
    """A type of arguments: names of what is known, joined by commas."""

    def parse(text: str) -> list[str]:
        given = [name for name in text.split(",") if name]
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"there is no {name!r}; there are: {', '.join(known)}")
        return given

    return parse


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=names(SHAPES), default=["gptj-6b"])  # type: ignore[arg-type]
    parser.add_argument("--recipes", type=names(RECIPES), default=["fp16", "int8", "int4"])  # type: ignore[arg-type]
    parser.add_argument("--executors", type=names(OURS), default=["cuda"], help="of cuda, tensorrt")  # type: ignore[arg-type]
    parser.add_argument(
        "--batches", type=lambda text: tuple(map(int, filter(None, text.split(",")))), default=(1, 8, 64)
    )
    parser.add_argument("--prompt", type=int, default=0, help="time the first token of a prompt of so many, too")
    parser.add_argument("--requests", type=int, default=0, help="measure the throughput of so many requests, too")
    parser.add_argument("--at-once", type=int, default=256, help="how many of them run at once")
    parser.add_argument("--vllm", default="", metavar="FOLDER", help="where vLLM lies, if it is not installed")
    parser.add_argument("--no-vllm", action="store_true", help="leave vLLM out")
    parser.add_argument("--vllm-limit", type=float, default=240, help="the seconds that one run of it may take")
    parser.add_argument("--transformers", action="store_true", help="measure transformers, too, in float16")
    parser.add_argument("--profile", action="store_true", help="show the kernels of a step")
    parser.add_argument("--logs", type=Path, default=Path(tempfile.gettempdir()), help="the folder for vLLM's logs")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    given.with_vllm = not given.no_vllm and bool(given.vllm or find_spec("vllm"))
    return given


def main() -> None:
    """Print the table."""
    given = arguments()
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA GPU that torch can use")
    given.logs.mkdir(parents=True, exist_ok=True)
    measuring = Measuring(given)
    if not given.with_vllm and not given.no_vllm:
        say("vLLM is not installed: --vllm FOLDER says where it lies")
    with tempfile.TemporaryDirectory() as temporary:
        for shape in given.shapes:
            for recipe in given.recipes:
                measuring.all_of(shape, recipe, Path(temporary) / shape / recipe)
    CONSOLE.print(measuring.table())
    if given.json:
        found = {
            "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "bytes_per_second": measuring.reads,
            "operations_per_second": measuring.peak,
            "limits": [{"shape": key[0], "recipe": key[1], **asdict(each)} for key, each in measuring.limits.items()],
            "figures": [asdict(entry) for entry in measuring.entries],
        }  # fmt: skip
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
