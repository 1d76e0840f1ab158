"""Engines of several ranks on as many GPUs: tokens beside those of one rank on the CPU.

Run it with `python benchmarks/gpu_ranks.py --ranks 2`. The tokens are those of the example checkpoints, in float32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from prompts import prompts

import llmc

MODELS = Path(__file__).parents[1] / "examples" / "models"
NEW = 48


def run(engine: Path, texts: list[str], device: str, executor: str, *options: str) -> list[list[int]]:
    """The tokens that `llmc run` gives prompts."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(texts))
        file.flush()
        command = [sys.executable, "-m", "llmc", "run", str(engine), "--prompt-file", file.name, "--json"]
        command += ["--max-new-tokens", str(NEW), "--device", device, "--executor", executor, "--no-verify", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} fails:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
    return [json.loads(line)["token_ids"] for line in done.stdout.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--models", default="gptj-tiny,mpt-tiny")
    parser.add_argument("--meshes", default="tp", help="of tp, pp")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    texts = prompts(12)
    print(f"{torch.cuda.device_count()} GPUs", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for model in given.models.split(","):
            for mesh in given.meshes.split(","):
                began = time.perf_counter()
                with warnings.catch_warnings(action="ignore"):
                    options = {"dtype": "float32", "target": "torch"}
                    one = llmc.compile(MODELS / model, Path(temporary) / "one", **options).path  # type: ignore[arg-type]
                    many = llmc.compile(
                        MODELS / model,
                        Path(temporary) / "many",
                        passes=f"{mesh}={given.ranks}",
                        **options,  # type: ignore[arg-type]
                    ).path
                expected = [each.token_ids for each in llmc.load(one, device="cpu").generate(texts, max_new_tokens=NEW)]
                executor = "cuda" if given.device == "cuda" else "torch"
                found = run(many, texts, given.device, executor)
                equal = sum(a == b for a, b in zip(found, expected, strict=True))
                took = time.perf_counter() - began
                print(
                    f"{model} {mesh}={given.ranks}: {equal} of {len(texts)} prompts as on the CPU ({took:.0f} s)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
