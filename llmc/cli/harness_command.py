"""`llmc eval harness`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmc.cli import options
from llmc.cli.console import Console, grid, note
from llmc.cli.output_file import check_output, write_text
from llmc.cli.ranks import hosts_chosen, needs_ranks, on_ranks
from runtime.load.ignored_options import ignored_notes
from runtime.processes.environment import rank_from_environment

if TYPE_CHECKING:
    from runtime.generation.engine import Engine


def harness_command(
    engine: Annotated[Path, typer.Argument(help="An engine directory, as llmc compile writes it.")],
    tasks: Annotated[
        str, typer.Option(metavar="NAMES", help="Tasks, groups or patterns with commas, such as arc_easy,mmlu_*.")
    ],
    include_path: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder of tasks of your own, as lm_eval reads them.")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(metavar="N", help="Examples before each question; what the task says if not given.")
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(metavar="X", help="How many questions of each task, or below 1 which share; all if not given."),
    ] = None,
    gen_kwargs: Annotated[
        str | None,
        typer.Option(
            metavar="K=V,…", help="Parameters of generations, over those of tasks: temperature=0.7,top_p=0.9."
        ),
    ] = None,
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="Write prompts by the checkpoint's chat template.")
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option(metavar="N", help="How many requests run at once; as many as the engine takes if not given."),
    ] = None,
    log_samples: Annotated[
        bool, typer.Option("--log-samples", help="Write every question and answer into -o FILE, too.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the results as JSON to a file, too.")
    ] = None,
    executor: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="auto, cpu, cuda, torch, tensorrt, emulator or interpreter, as for llmc run."
        ),
    ] = "auto",
    device: options.Device = "auto",
    threads: options.Threads = None,
    hostfile: options.Hostfile = None,
    no_verify: options.NoVerify = False,
    json_output: options.Json = False,
    plugin: options.Plugins = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Run tasks of lm-evaluation-harness on an engine, of one rank or several.

    Tasks are loaded, and their data fetched, before the engine is. lm_eval itself knows engines as the model llmc; see
    docs/evaluation.md.

    \b
    llmc eval harness my.engine --tasks arc_easy,hellaswag --limit 100
    llmc eval harness my.engine --tasks my_task --include-path tasks --json
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    several = needs_ranks(engine)
    if hostfile is not None and not several:
        raise typer.BadParameter(f"{engine} is an engine of one rank, which needs no hosts", param_hint="--hostfile")
    if log_samples and output is None:
        raise typer.BadParameter("samples go to a file: give -o FILE", param_hint="--log-samples")
    if batch is not None and batch < 1:
        raise typer.BadParameter(f"{batch} is below 1", param_hint="--batch")
    notes = list(ignored_notes(hosts_chosen(hostfile)))
    wanted: Any = None
    if rank_from_environment() == 0:  # the tasks are rank 0's
        from llmc.evaluation.tasks import Tasks, silence

        check_output(output)
        with silence() if quiet else contextlib.nullcontext():
            wanted = Tasks(engine, options.words(tasks), include_path=include_path)
    how: Any = {
        "device": device, "executor": executor, "threads": threads, "verify": not no_verify, "note": notes.append,
        "batch": batch,
    }  # fmt: skip

    def answer(loaded: Engine) -> None:
        from llmc.evaluation.tasks import HarnessOptions, plain_results, silence

        asked = HarnessOptions(num_fewshot, limit, gen_kwargs, apply_chat_template, log_samples, batch)
        with silence() if quiet else contextlib.nullcontext():
            results = wanted.run(loaded, asked)
        if output is not None:
            write_text(output, json.dumps(plain_results(results, samples=log_samples), indent=2) + "\n")
        if not quiet:
            for text in notes:
                note(text)
        content = plain_results(results)
        print(json.dumps({**content, **({"notes": notes} if notes else {})}) if json_output else _table(content))

    if several:
        on_ranks(engine, answer, hostfile=hostfile, **how)
        return
    from llmc.evaluation.open_model import load

    with Console(quiet=quiet, bars_only=True) as console:
        loaded = load(engine, progress=console, **how)
    answer(loaded)


def _table(results: Mapping[str, Any]) -> str:
    from llmc.evaluation.tasks import metrics

    shots, counts = results.get("n-shot", {}), results.get("n-samples", {})
    rows = [
        [
            each.task,
            each.name + (f" ({each.filter})" if each.filter != "none" else ""),
            f"{each.value:.4f}" if isinstance(each.value, float) else str(each.value),
            "" if each.stderr is None else f"{each.stderr:.4f}",
            str(shots.get(each.task, "")),
            str(counts.get(each.task, {}).get("effective", "")),
        ]
        for each in metrics(results)
    ]
    return grid(["task", "metric", "value", "standard error", "shots", "questions"], rows)
