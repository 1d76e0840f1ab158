"""Whether engines on a GPU compute what they do on the CPU: `python benchmarks/gpu_exactness.py [--models DIR]`.

For every checkpoint in a folder, every recipe and every type of cache:

- In float32, greedy tokens of ragged prompts, as `Engine.generate` gives them and step by step, are compared with those
  of the executor `torch` on the CPU, and the logits of each step as well. Logits may be off by what the order of sums
  explains (`llmc.verification.tolerance`: 5 eps sqrt(layers) sqrt(4096) of their RMS); where activations or caches are
  quantized, by twice what quantizing them changes, which is measured on the CPU. Another token than the CPU's is a tie
  if the CPU's own logits of the two differ by no more than five standard deviations of the difference of two logits,
  each of which is off by as much as was measured at that step, or is explained, if that is less.
- In float16, logits are compared with the engine's graph in float64, beside those of transformers in float16 on the
  same GPU over the same texts against transformers in float64. The error may be twice as large as theirs; where
  activations or caches are quantized, as large as above.

`--ranks 2` compares engines of two ranks on two GPUs, in float32. Each checkpoint and recipe is a process's work, and
as many run side by side as there are cores. Leaves with 1 if something is not explained, or was not run in the time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import torch
from exactness_cells import CACHES, RECIPES, Cell, Work, check, run_job
from rich.console import Console
from rich.table import Table

_RANKED = 4
"""How many engines of several ranks run at once."""
MODELS = Path(__file__).parents[1] / "examples" / "models"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the small ones first; the folder itself if it is one."""
    found = [file.parent for file in (folder / "config.json", *folder.glob("*/config.json")) if file.is_file()]
    return sorted(found, key=lambda each: (sum(file.stat().st_size for file in each.iterdir()) > 8e6, each.name))


def _take_core(taken: Synchronized[int]) -> None:
    """Keep this process, and the compilers that it starts, to a core of its own: all others are at work, too."""
    cores = sorted(os.sched_getaffinity(0))
    with taken.get_lock():
        os.sched_setaffinity(0, {cores[taken.value % len(cores)]})
        taken.value += 1


def finished(works: Sequence[Work], workers: int, budget: float) -> Iterator[Cell]:
    """The cells as they end; those that have not ended in the time given are failures, and their processes killed."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_take_core, initargs=(context.Value("i"),))
    pending: dict[Future[Cell], Work] = {pool.submit(check, work): work for work in works}
    try:
        for future in as_completed([*pending], timeout=budget):
            work = pending.pop(future)
            if (error := future.exception()) is not None:
                yield Cell(work.model.name, work.passes or "none", failure=f"{type(error).__name__}: {error}")
            else:
                yield future.result()
    except TimeoutError:
        for work in pending.values():
            yield Cell(work.model.name, work.passes or "none", failure="there was no time for it")
    finally:
        for process in [*pool._processes.values()] if pending else []:
            process.kill()
        pool.shutdown(cancel_futures=True)


def table_of(cells: Sequence[Cell]) -> Table:
    """A row for each recipe, over all checkpoints."""
    table = Table(
        "recipe", "checkpoints", "texts as the CPU's", "ties", "wrong", "logits, float32", "explained",
        "logits, float16", "of transformers'", "explained", "",
    )  # fmt: skip
    for recipe in dict.fromkeys(cell.recipe for cell in cells):
        ours = [cell for cell in cells if cell.recipe == recipe]
        ran = [cell for cell in ours if not cell.failure]
        halves = [cell for cell in ran if cell.half_error is not None]
        worst = max(ran, key=lambda cell: cell.error / (cell.bound or 1.0), default=None)
        half = max(halves, key=lambda cell: cell.ratio or 0.0, default=None)
        table.add_row(
            recipe,
            f"{len(ran)} of {len(ours)}",
            f"{sum(cell.texts for cell in ran)} of {sum(cell.prompts for cell in ran)}",
            str(sum(cell.ties for cell in ran)),
            str(sum(len(cell.wrong) for cell in ran)),
            "" if worst is None else f"{worst.error:.1e}",
            "" if worst is None else f"{worst.bound:.1e}",
            "" if half is None else f"{half.half_error:.1e}",
            "" if half is None else f"{half.ratio:.2f} x",
            "" if half is None or not half.half_bound else f"{half.half_bound:.1e}",
            "" if all(cell.good for cell in ours) else "NOT GOOD",
        )
    return table


def lines_of(cell: Cell) -> Iterator[str]:
    """What is not explained."""
    name = f"{cell.model} {cell.recipe}"
    if cell.failure:
        yield f"{name}: {cell.failure}"
        return
    if cell.error > cell.bound:
        yield f"{name}: logits in float32 are off by {cell.error:.1e}, of which {cell.bound:.1e} are explained"
    yield from (f"{name}: {text}" for text in cell.wrong)
    if not cell.good and not cell.wrong and cell.error <= cell.bound:
        yield f"{name}: logits in float16 are off by {cell.half_error:.1e}, transformers' by {cell.theirs:.1e}"


def main() -> None:
    """Print the table; leave with 1 if something is not explained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=MODELS, metavar="DIR", help="a folder of checkpoints")
    parser.add_argument("--recipes", default=" ".join(RECIPES[1:]), help="pipelines with spaces between them")
    parser.add_argument("--caches", help="passes of caches with spaces between them; if not given, none for ranks")
    parser.add_argument("--ranks", type=int, default=1, help="ranks that share each layer, each with a GPU")
    parser.add_argument("--executor", default="cuda")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--budget", type=float, default=270, help="after so many seconds what still runs is ended")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to a file, too")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job is not None:
        run_job(given.job)
        return
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("there is no CUDA GPU that torch can use")
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["LLMC_TUNE"] = "0"  # it is what the launches compute that counts, not how fast
    models = checkpoints(given.models)
    if not models:
        sys.exit(f"there is no checkpoint in {given.models}")
    caches = given.caches.split() if given.caches is not None else CACHES[1:] if given.ranks == 1 else ()
    how = partial(Work, executor=given.executor, device=given.device, ranks=given.ranks)
    works = [
        how(model, recipe, cache)
        for cache in ("", *caches)
        for recipe in ("", *given.recipes.split())
        for model in models
    ]
    # Ranks wait for one another, which they do longer the more ranks share a GPU.
    workers = given.workers if given.ranks == 1 else max(1, min(_RANKED, given.workers // given.ranks))
    print(f"{len(works)} engines of {len(models)} checkpoints, {workers} at once", flush=True)
    began, cells, console = time.monotonic(), [], Console(width=180)
    for cell in finished(works, workers, given.budget):
        cells.append(cell)
        if len(cells) % 24 == 0:
            print(f"{len(cells)} after {time.monotonic() - began:.0f} s", flush=True)
        for line in lines_of(cell):
            print(line, flush=True)
    order = {(work.passes or "none"): at for at, work in enumerate(works)}
    cells.sort(key=lambda cell: (order[cell.recipe], cell.model))
    console.print(table_of(cells))
    bad = sum(not cell.good for cell in cells)
    spent = sum(cell.seconds for cell in cells)
    console.print(f"{len(cells) - bad} of {len(cells)} good, {time.monotonic() - began:.0f} s ({spent:.0f} s of work)")
    if given.json:
        figures = [{**asdict(cell), "ratio": cell.ratio, "good": cell.good} for cell in cells]
        given.json.write_text(json.dumps(figures, indent=1))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
