"""`llmc eval summarize`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compiler.errors import RequestError
from llmc.cli import options
from llmc.cli.console import Console, note, table
from llmc.cli.output_file import check_output, write_lines
from llmc.cli.ranks import hosts_chosen, needs_ranks, on_ranks
from runtime.load.ignored_options import ignored_notes
from runtime.processes.environment import rank_from_environment

if TYPE_CHECKING:
    from llmc.evaluation.summaries import Summaries, SummaryRun
    from runtime.generation.engine import Engine

DEFAULT_ROUGE1 = 15.0
"""The ROUGE-1 below which `--check-accuracy` fails, if no other is given."""
_NAMES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum"}


def summarize_command(
    engine: Annotated[Path, typer.Argument(help="An engine directory, as llmc compile writes it.")],
    dataset: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="Articles with highlights: a file (.jsonl, .json, .parquet, .arrow), a folder, a data set of the hub "
            "such as cnn_dailymail, or the ten of llmc's own sample.",
        ),
    ] = "sample",
    articles: Annotated[int | None, typer.Option(metavar="N", help="How many articles to summarize at most.")] = 20,
    every: Annotated[bool, typer.Option("--all", help="Summarize all articles of the data set.")] = False,
    split: Annotated[str, typer.Option(metavar="NAME", help="The part of a folder or of the hub's data set.")] = "test",
    config: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The version of the hub's data set; for cnn_dailymail 3.0.0 if not given."),
    ] = None,
    columns: Annotated[
        str, typer.Option(metavar="A,H", help="The columns of articles and of highlights.")
    ] = "article,highlights",
    max_new_tokens: Annotated[int, typer.Option(metavar="N", help="How many tokens a summary has at most.")] = 100,
    input_tokens: Annotated[
        int,
        typer.Option(metavar="N", help='How many tokens a prompt has at most, "TL;DR:" included; articles are cut.'),
    ] = 923,
    beams: Annotated[
        int, typer.Option("--beams", "--num-beams", metavar="N", help="How many sequences to follow; 1 for none.")
    ] = 1,
    length_penalty: Annotated[
        float, typer.Option(metavar="X", help="By which power of its length a beam's score is divided.")
    ] = 1.0,
    top_k: Annotated[
        int, typer.Option(metavar="N", help="Draw from so many of the most likely tokens; 1 takes the most likely one.")
    ] = 1,
    temperature: Annotated[float, typer.Option(metavar="X", help="By what logits are divided before a draw.")] = 1.0,
    seed: Annotated[int | None, typer.Option(metavar="N", help="What the draws follow from.")] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Run so many articles at once, in groups; if not given, as many as the engine takes, in flight.",
        ),
    ] = None,
    stem: Annotated[bool, typer.Option("--stem", help="Compare the stems of words in ROUGE.")] = False,
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A checkpoint that transformers runs on the same prompts, to compare with."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="TYPE", help="What --against is computed in; the engine's type if not given.")
    ] = None,
    check_accuracy: Annotated[
        bool, typer.Option("--check-accuracy", help="Exit with status 1 if ROUGE-1 is below the threshold.")
    ] = False,
    rouge1_threshold: Annotated[
        float | None,
        typer.Option(metavar="X", help="The threshold of --check-accuracy, from 0 to 100; 15 if not given."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write articles, highlights and summaries as JSON lines."),
    ] = None,
    no_special_tokens: options.NoSpecialTokens = False,
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
    """Summarize articles, and score the summaries by ROUGE against what people wrote.

    A prompt is an article and "TL;DR:". ROUGE is given from 0 to 100, as means of F-measures. With --against,
    transformers runs the checkpoint on the same prompts with the same settings, and both are timed: a first article is
    not counted. An engine of several ranks is run by all of them, as by llmc run.

    \b
    llmc eval summarize my.engine
    llmc eval summarize my.engine --dataset cnn_dailymail --articles 100 --against my-checkpoint
    llmc eval summarize my.engine --dataset test.parquet --all --beams 4 --check-accuracy --rouge1-threshold 20
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    several = needs_ranks(engine)
    if hostfile is not None and not several:
        raise typer.BadParameter(f"{engine} is an engine of one rank, which needs no hosts", param_hint="--hostfile")
    threshold = _threshold(rouge1_threshold, check_accuracy)
    notes = list(ignored_notes(hosts_chosen(hostfile)))
    task: Any = None
    if rank_from_environment() == 0:  # the articles are rank 0's
        from llmc.evaluation.articles import ArticleSource
        from llmc.evaluation.summaries import SummarySettings
        from llmc.evaluation.summarize import prepare

        check_output(output)
        settings = SummarySettings(
            max_new_tokens, input_tokens, beams, length_penalty, top_k, temperature, seed, not no_special_tokens, stem
        )
        source = ArticleSource(dataset, split, config, _columns(columns))
        task = prepare(
            engine,
            source,
            articles=None if every else articles,
            settings=settings,
            batch=batch,
            against=against,
            dtype=dtype,
        )
    how: Any = {
        "device": device, "executor": executor, "threads": threads, "verify": not no_verify, "note": notes.append,
        "batch": task.batch * beams if task else None,
    }  # fmt: skip

    def answer(loaded: Engine) -> None:
        from llmc.evaluation.summarize import summarize_loaded

        with Console(quiet=quiet or json_output, bars_only=json_output) as console:
            result = summarize_loaded(loaded, task, device=device, progress=console, note=notes.append)
        if output is not None:
            write_lines(output, result.rows())
        _show(result, threshold, list(dict.fromkeys(notes)), json_output=json_output, quiet=quiet)

    if several:
        on_ranks(engine, answer, hostfile=hostfile, **how)
        return
    from llmc.evaluation.open_model import load

    with Console(quiet=quiet or json_output, bars_only=json_output) as console:
        loaded = load(engine, progress=console, **how)
    answer(loaded)


def _threshold(given: float | None, check: bool) -> float | None:
    """The ROUGE-1 that is asked for; None if none is."""
    if given is not None and not 0 <= given <= 100:
        raise RequestError(f"--rouge1-threshold is {given}; ROUGE is from 0 to 100")
    if given is None:
        return DEFAULT_ROUGE1 if check else None
    return given


def _columns(text: str) -> tuple[str, str]:
    names = options.words(text)
    if len(names) != 2 or not all(names):
        raise RequestError(f"--columns {text!r} is not two names", hint="write --columns article,highlights")
    return names[0], names[1]


def _show(result: Summaries, threshold: float | None, notes: list[str], *, json_output: bool, quiet: bool) -> None:
    holds = threshold is None or result.rouge1 >= threshold
    if json_output:
        content = result.to_json()
        if threshold is not None:
            content["accuracy"] = {"rouge1_threshold": threshold, "holds": holds}
        print(json.dumps({**content, **({"notes": notes} if notes else {})}))
    if not quiet:
        for text in notes:
            note(text)
    if not json_output:
        print(_text(result))
    if not holds:
        sys.stdout.flush()
        print(f"error: ROUGE-1 is {result.rouge1:.2f}, below the threshold of {threshold:g}", file=sys.stderr)
        raise typer.Exit(1)


def _text(result: Summaries) -> str:
    cut = f", {result.cut} of them cut to fit" if result.cut else ""
    parts = [table([("articles", f"{len(result.articles)}{cut}; at most {result.batch} at once")])]
    parts += [table(_rows(run)) for run in result.runs]
    if len(result.runs) > 1:
        ours, theirs = result.runs
        faster = theirs.seconds / ours.seconds if ours.seconds else 0.0
        same = sum(a == b for a, b in zip(ours.summaries, theirs.summaries, strict=True))
        parts.append(
            table(
                [
                    ("ROUGE-1", f"{ours.rouge['rouge1'] - theirs.rouge['rouge1']:+.2f} against transformers"),
                    ("summaries", f"{same} of {len(ours.summaries)} equal"),
                    ("speed", f"{faster:.2f} times as fast"),
                ]
            )
        )
    return "\n\n".join(parts)


def _rows(run: SummaryRun) -> list[tuple[str, str]]:
    return [
        ("model", f"{run.model} ({run.runner})"),
        *((_NAMES[name], f"{score:.2f}") for name, score in run.rouge.items()),
        ("time", f"{run.seconds:.2f} s, {run.seconds_per_article:.3f} s an article"),
        ("tokens", f"{run.tokens:,} new, {run.tokens_per_second:.1f} a second"),
    ]
