"""llmc's quantization beside that of other tools: perplexity, time and memory on the same checkpoint and tokens.

    python -m benchmarks.quant_tools MODEL... --calib calib.txt --text val.txt --env hqq=/envs/hqq/bin/python ...

Each tool needs a virtual environment of its own. For llmcompressor, gptqmodel, modelopt, autoawq, torchao and hqq:

    python3 -m venv /envs/TOOL
    /envs/TOOL/bin/pip install torch==2.13.0+cpu      # the CPU build of torch first
    /envs/TOOL/bin/pip install PACKAGES

    llmcompressor  llmcompressor==0.14.0.1
    modelopt       nvidia-modelopt==0.47.0 transformers accelerate requests datasets
    torchao        torchao==0.18.0 transformers accelerate
    hqq            hqq==0.2.8.post1 transformers accelerate
    gptqmodel      its requirements but torch, which it wants newer than there is a CPU build; then
                   --no-build-isolation --no-deps gptqmodel==7.7.0
    autoawq        --no-build-isolation autoawq==0.2.8 transformers==4.47.1, as 0.2.9 needs a transformers that it
                   cannot run OPT and others with

A tool without an environment is left out; llmc runs in this one. All tools get the same windows of token ids, and as
many threads. Time and memory are those of a tool's whole process up to the saved result; "work" leaves out imports,
"CPU" adds up what all threads computed, which says more than time does where other programs run. A tool's result is
read by llmc's importers where they know its format, otherwise as the weights that it stands for, and scored by llmc's
interpreter in float32. "import" is the share of weights that llmc reads from a tool's checkpoint otherwise than the
tool itself does.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from benchmarks.quality import Reference
from benchmarks.quant_tools.process import Outcome, environment, start
from benchmarks.quant_tools.recipes import RECIPES, TOOLS
from benchmarks.quant_tools.scoring import import_error, reference, result, score
from compiler.errors import LlmcError
from compiler.passes.quant.calibration.source import CalibrationSource
from compiler.passes.quant.calibration.text import read_texts
from llmc.models import lift
from runtime.generation.tokenizer import Tokenizer

HEADER = ("model", "recipe", "tool", "perplexity", "change", "KL", "process", "work", "CPU", "memory", "import", "note")


def windows_of(model: Path, text: Path, samples: int, length: int) -> Tensor:
    """Windows of a text for a checkpoint, int32 `[samples, length]`."""
    encode = Tokenizer(model / "tokenizer.json").encode
    return CalibrationSource(encode, read_texts(text), samples=samples, length=length).windows(lift(model))


def measure(
    model: Path, expected: Reference, options: argparse.Namespace, folder: Path
) -> Iterator[tuple[str, Outcome]]:
    """Run every tool on a checkpoint; yields the recipe and what became of it."""
    folder.mkdir(parents=True, exist_ok=True)
    calibration = folder / "windows.jsonl"
    rows = windows_of(model, options.calib, options.samples, options.length).tolist()
    calibration.write_text("".join(json.dumps({"token_ids": row}) + "\n" for row in rows))
    job = {
        "model": str(model.resolve()),
        "windows": str(calibration),
        "threads": options.threads,
        "dtype": options.dtype,
    }
    pythons = {"llmc": sys.executable, **options.env}
    for recipe in options.recipe or RECIPES:
        for number, run in enumerate(RECIPES[recipe]):
            if run.tool not in pythons or (options.tool and run.tool not in options.tool):
                continue
            place = folder / f"{recipe}-{number}-{run.tool}"
            outcome = start(run, pythons[run.tool], job, place, options.limit)
            if not outcome.error:
                _score(outcome, expected)
            yield recipe, outcome


def _score(outcome: Outcome, expected: Reference) -> None:
    try:
        outcome.scores = score(result(outcome.folder), expected)
        outcome.import_error = import_error(outcome.folder)
    except LlmcError as error:
        outcome.error = f"llmc cannot read the result: {error}"


def row(model: str, recipe: str, outcome: Outcome) -> str:
    """A row of the table."""
    name = f"{outcome.run.tool} {outcome.version}".strip()
    if outcome.error:
        cells = [model, recipe, name, *"–" * 8, outcome.error]
    else:
        cells = [
            model,
            recipe,
            name,
            *outcome.scores,
            f"{outcome.seconds:.1f} s",
            f"{sum(outcome.stages.values()):.1f} s",
            f"{outcome.cpu_seconds:.1f} s",
            f"{outcome.peak_bytes / 2**20:.0f} MiB",
            "" if outcome.import_error is None else f"{outcome.import_error:.0e}",
            outcome.run.note,
        ]
    return "| " + " | ".join(cells) + " |"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--calib", required=True, type=Path, help="the text to calibrate with")
    parser.add_argument("--text", required=True, type=Path, help="the text to measure on")
    parser.add_argument("--env", action="append", type=environment, default=[], help="TOOL=PYTHON")
    parser.add_argument("--recipe", action="append", choices=RECIPES)
    parser.add_argument("--tool", action="append", choices=TOOLS)
    parser.add_argument("--samples", type=int, default=128, help="calibration windows")
    parser.add_argument("--windows", type=int, default=64, help="windows to measure on")
    parser.add_argument("--length", type=int, default=256, help="tokens of a window")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", help="what tools load a checkpoint in; auto for its own")
    parser.add_argument("--limit", type=float, default=1800, help="seconds that a run may take")
    parser.add_argument("--keep", type=Path, help="a new folder for what the tools write")
    parser.add_argument("--json", type=Path, help="a file for the results")
    options = parser.parse_args()
    options.env = dict(options.env)
    return options


def main() -> None:
    """Print the table."""
    options = arguments()
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        for model in options.models:
            expected = reference(model, windows_of(model, options.text, options.windows, options.length))
            baseline = math.exp(expected.nll.mean())
            print(f"| {model.name} | float16 | | {baseline:.3f} |" + " |" * (len(HEADER) - 4), flush=True)
            folder = (options.keep or Path(temporary)).resolve() / model.name
            for recipe, outcome in measure(model, expected, options, folder):
                print(row(model.name, recipe, outcome), flush=True)
                found.append({"model": model.name, "recipe": recipe, "baseline": baseline, **asdict(outcome)})
                if options.json:
                    options.json.write_text(json.dumps(found, default=str, indent=1))


if __name__ == "__main__":
    main()
