"""Every quantization on every target: `python -m benchmarks.quant_matrix [MODEL ...] [--recipes "quant=awq kv=int8"]`.

Each checkpoint folder is quantized by each recipe, for one rank and for two, and run by torch and by the TensorRT
emulator; ranks are threads. Greedy tokens are compared with the interpreter's on the quantized graph of one rank, given
the same tokens before each. A token that the interpreter likes as much as its own, but for rounding
(`llmc.verification.tolerance`), is a tie. In float32 prompts must be exact: the same tokens, from logits that only the
order of sums changes; where activations or caches are quantized, a quarter of the prompts, since a value can get
another code. `import=KIND` stands for the checkpoint as another tool stores it, quantized to the nearest values.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import llmc
from benchmarks.prompts import prompts
from runtime.generation.tokenizer import Tokenizer
from tests.runtime.quantized_engines import (
    EXECUTORS,
    IMPORTS,
    Agreement,
    Oracle,
    compiled,
    imported,
    loaded,
    quantized_graph,
)

MODELS = Path(__file__).parents[1] / "examples" / "models"
RECIPES = (
    "quant=int8",
    "quant=int8:group=32",
    "quant=int8:act=token",
    "quant=int8:act=static",
    "quant=int4",
    "quant=int4:group=64",
    "quant=int4:group=64:kl_budget=0.02",
    "quant=int3:group=64",
    "quant=awq",
    "quant=awq:group=32",
    "quant=awq:bits=3:group=64",
    "quant=gptq",
    "quant=gptq:group=32",
    "quant=gptq:order=false",
    "quant=gptq:bits=3:group=64",
    "quant=gptq:bits=8",
    "quant=smoothquant",
    "quant=smoothquant:act=static",
    "quant=fp8",
    "quant=fp8:weights=channel",
    "quant=fp8:weights=channel:round=gptq",
    "quant=fp8:act=token",
    "quant=fp8:act=off",
    "quant=auto:bits=6",
    "kv=int8",
    "kv=int8:scale=tensor",
    "kv=fp8",
    "kv=fp8:scale=tensor",
    "kv=fp8:fallback=0.03",
    "quant=int8,kv=int8",
    "quant=awq,kv=fp8",
    "quant=gptq:group=64,kv=int8:scale=tensor",
    "quant=smoothquant,kv=int8",
    "quant=fp8,kv=fp8",
    "quant=int8:only=layers.0+layers.3,quant=int4:group=64",
    *(f"import={kind}" for kind in IMPORTS),
    "import=gptq-order,kv=int8",
)
RANKS = (1, 2)
LENGTHS = (1, 2, 3, 4, 6, 8, 16, 40)
NEW_TOKENS = 10
_LONG = [text for text in prompts() if len(text.split()) >= 40]


@dataclass(frozen=True)
class Cell:
    """One engine on one executor; `error` says why there is none."""

    model: str
    dtype: str
    recipe: str
    ranks: int
    executor: str
    agreement: Agreement | None = None
    error: str = ""

    @property
    def good(self) -> bool:
        """Whether the engine computes what the interpreter does."""
        return self.agreement is not None and self.agreement.holds

    @property
    def text(self) -> str:
        """The tokens that are equal, the ties, and in float32 the prompts that are exact."""
        if self.agreement is None:
            return f"**{self.error}**"
        found = self.agreement
        ties = f", {found.ties} ties" if found.ties else ""
        exact = f", {found.exact} of {found.prompts} exact" if self.dtype == "float32" else ""
        counted = f"{found.equal} of {found.tokens}{ties}{exact}"
        return counted if self.good else f"**{counted}, error {found.error:.1e}**"


def cells(
    model: Path, dtype: str, recipe: str, executors: Sequence[str], ranks: Sequence[int], *, built: bool
) -> Iterator[Cell]:
    """All engines of one recipe."""
    encode = Tokenizer(model / "tokenizer.json").encode
    ids = [encode(text)[:length] for text, length in zip(_LONG, LENGTHS, strict=False)]
    given, _, rest = recipe.partition(",")
    kind, passes = (given.removeprefix("import="), rest) if given.startswith("import=") else ("", recipe)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = imported(model, kind, folder / "checkpoint") if kind else model
        try:
            oracle = Oracle(quantized_graph(source, passes, dtype), dtype, ids, NEW_TOKENS)
        except llmc.LlmcError as error:
            yield Cell(model.name, dtype, recipe, 1, "interpreter", error=error.message)
            return
        for count in ranks:
            named = [(model.name, dtype, recipe, count, name) for name in executors]
            mesh = f"tp={count}" if count > 1 else ""
            try:
                whole = ",".join(filter(None, (passes, mesh)))
                engine = compiled(source, whole, dtype, folder / f"ranks{count}", built=built)
                yield from [Cell(*each, oracle.compare(loaded(engine, each[-1]))) for each in named]
            except llmc.LlmcError as error:
                yield from [Cell(*each, error=error.message) for each in named]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, default=sorted(MODELS.glob("*-tiny")))
    parser.add_argument("--dtypes", default="float32,float16")
    parser.add_argument("--recipes", default=" ".join(RECIPES), help="pipelines with spaces between them")
    parser.add_argument("--ranks", default=",".join(map(str, RANKS)))
    parser.add_argument("--executors", default=",".join(EXECUTORS))
    parser.add_argument("--networks", action="store_true", help="emulate TensorRT's networks without building them")
    parser.add_argument("--json", action="store_true", help="print every cell as JSON instead of the table")
    given = parser.parse_args()
    torch.set_num_threads(1)
    executors, ranks = given.executors.split(","), [int(count) for count in given.ranks.split(",")]
    columns = [f"{executor}, tp={count}" for count in ranks for executor in executors]
    todo = [(m, d, r) for m in given.models for d in given.dtypes.split(",") for r in given.recipes.split()]
    started, found = time.monotonic(), []
    if not given.json:
        print(f"| model | type | recipe | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 3)}", flush=True)
    for number, (model, dtype, recipe) in enumerate(todo, 1):
        row = list(cells(model, dtype, recipe, executors, ranks, built=not given.networks))
        found += row
        if not given.json:
            print(f"| {model.name} | {dtype} | `{recipe}` | {' | '.join(cell.text for cell in row)} |", flush=True)
        left = (time.monotonic() - started) / number * (len(todo) - number)
        print(f"{number} of {len(todo)} rows, {left / 60:.0f} minutes left", file=sys.stderr, flush=True)
    bad = [cell for cell in found if not cell.good]
    if given.json:
        print(json.dumps([{**asdict(cell), "good": cell.good} for cell in found], indent=1))
    print(f"{len(found) - len(bad)} of {len(found)} engines agree with the interpreter", file=sys.stderr)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
