"""Quantized TensorRT engines on a CUDA GPU, beside their emulation: `python benchmarks/trt_quant.py [MODEL ...]`.

For each checkpoint folder and recipe a float16 engine is built here, by the CPU. Its greedy tokens and its logits on
the GPU are compared with the emulator's. `--cpu` compares the emulator with the interpreter instead.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from prompts import prompts

import llmc

EXAMPLES = Path(__file__).parents[1] / "examples" / "models"
RECIPES = (
    "quant=int8",
    "quant=int4:group=128",
    "quant=awq:group=128",
    "quant=gptq:group=128",
    "quant=int8:act=token",
    "quant=smoothquant",
    "quant=smoothquant:act=static",
    "quant=fp8",
    "kv=int8",
    "kv=fp8",
    "quant=int4:group=64,kv=int8",
)
PROMPTS, NEW_TOKENS = 8, 24


def compare(model: Path, recipe: str, folder: Path, executors: tuple[str, str]) -> str:
    """A line about one engine."""
    sizes = {"max_batch": 4, "max_input": 256, "max_seq": 512}
    place = folder / "engine"
    engine = llmc.compile(model, place, passes=recipe, dtype="float16", target="tensorrt-rtx", **sizes).path
    texts, ids = prompts()[:PROMPTS], list(range(3, 60))
    loaded = [llmc.load(engine, executor=name) for name in executors]
    found, meant = (
        [c.token_ids for c in e.generate(texts, max_new_tokens=NEW_TOKENS, ignore_eos=True)] for e in loaded
    )
    a, b = (e.logits(ids).double().cpu() for e in loaded)
    equal = sum(x == y for x, y in zip(found, meant, strict=True))
    return f"{equal} of {PROMPTS} prompts equal, logits {((a - b).norm() / b.norm()).item():.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, default=sorted(EXAMPLES.glob("*-tiny")))
    parser.add_argument("--recipes", default=" ".join(RECIPES))
    parser.add_argument("--cpu", action="store_true")
    given = parser.parse_args()
    executors = ("emulator", "interpreter") if given.cpu else ("tensorrt", "emulator")
    for model in given.models:
        for recipe in given.recipes.split():
            with tempfile.TemporaryDirectory() as folder:
                try:
                    line = compare(model, recipe, Path(folder), executors)
                except llmc.LlmcError as error:
                    line = f"error: {error.message}"
            print(f"{model.name} {recipe}: {line}", flush=True)


if __name__ == "__main__":
    main()
