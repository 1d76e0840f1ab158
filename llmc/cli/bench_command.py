"""`llmc bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmc.cli import options
from llmc.cli.console import Console, grid, note, table
from llmc.cli.output_file import check_output
from llmc.cli.ranks import hosts_chosen, needs_ranks, on_ranks
from runtime.load.ignored_options import ignored_notes
from runtime.processes.environment import rank_from_environment

if TYPE_CHECKING:
    from llmc.benchmarking.bench import Benchmark
    from llmc.benchmarking.kernels import LoadKernels
    from llmc.benchmarking.runs import Cell, Figure
    from runtime.generation.engine import Engine


def bench_command(
    engine: Annotated[Path, typer.Argument(help="An engine directory, as llmc compile writes it.")],
    batch: Annotated[
        str | None, typer.Option(metavar="N,…", help="How many sequences run at once; 1,8 if not given.")
    ] = None,
    input_tokens: Annotated[
        str | None, typer.Option("--input", metavar="N,…", help="How many tokens prompts have; 128 if not given.")
    ] = None,
    output_tokens: Annotated[
        str | None, typer.Option("--output", metavar="N,…", help="How many new tokens they get; 64 if not given.")
    ] = None,
    repeat: Annotated[int, typer.Option(metavar="N", help="How many runs count for each figure.")] = 3,
    warm_up: Annotated[
        int | None, typer.Option(metavar="N", help="How many runs before them do not; as many as needed if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="What the prompts, random tokens, follow from.")] = 0,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A checkpoint that transformers runs, to compare with.")
    ] = None,
    against_tool: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Run it by transformers, vllm or ctranslate2, where that is installed, instead. May be repeated.",
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="TYPE", help="What --against is computed in; the engine's type if not given.")
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Say how long each kernel of a step takes (executor cpu).")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", "-o", metavar="FILE", help="Draw the figures: .png, .svg or .html.")
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
    """Measure how fast an engine is: first tokens, further tokens, tokens a second, and memory.

    Each combination of --batch, --input and --output is run --repeat times; the median counts, and the least and the
    largest stand in brackets. The bound is the time of reading what a step must read, weights and caches, at the
    bandwidth of the same memory, which is measured in the same run.

    \b
    llmc bench my.engine
    llmc bench my.engine --batch 1,8,64 --input 128 --output 128 --against my-checkpoint -o bench.svg
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    several = needs_ranks(engine)
    if hostfile is not None and not several:
        raise typer.BadParameter(f"{engine} is an engine of one rank, which needs no hosts", param_hint="--hostfile")
    notes = list(ignored_notes(hosts_chosen(hostfile)))
    wanted: Any = None
    if rank_from_environment() == 0:  # the other ranks do what it says
        from llmc.benchmarking.bench import BenchOptions, plan
        from llmc.pictures import check_plot

        check_plot(plot)
        check_output(plot)
        wanted = plan(
            engine,
            BenchOptions(
                batches=options.sizes("--batch", batch),
                inputs=options.sizes("--input", input_tokens),
                outputs=options.sizes("--output", output_tokens),
                repeats=repeat,
                warm_up=warm_up,
                seed=seed,
                against=against,
                tools=tuple(against_tool or ()),
                dtype=dtype,
                profile=profile,
            ),
        )
    how: Any = {
        "device": device, "executor": executor, "threads": threads, "verify": not no_verify, "note": notes.append,
        "batch": max(each.batch for each in wanted.loads) if wanted else None,
    }  # fmt: skip

    def answer(loaded: Engine) -> None:
        from llmc.benchmarking.bench import bench_loaded

        with Console(quiet=quiet or json_output, bars_only=json_output) as console:
            result = bench_loaded(loaded, wanted, device=device, progress=console, note=notes.append)
        if plot is not None:
            from llmc.benchmarking.plot import write_plot

            write_plot(result, plot, _grid(result, wrap=False))
        if not quiet:
            for text in notes:
                note(text)
        if json_output:
            print(json.dumps({**result.to_json(), **({"notes": notes} if notes else {})}))
        else:
            print("\n\n".join([_head(result), _grid(result), *map(_kernels, result.kernels)]))

    if several:
        on_ranks(engine, answer, hostfile=hostfile, **how)
        return
    from llmc.evaluation.open_model import load

    with Console(quiet=quiet or json_output, bars_only=json_output) as console:
        loaded = load(engine, progress=console, **how)
    answer(loaded)


def _head(result: Benchmark) -> str:
    from compiler.sizes import bytes_text

    step, rate = result.step, result.bandwidth
    return table(
        [
            ("engine", f"{result.engine} on {result.device}"),
            ("memory", f"read at {bytes_text(rate.bytes_per_second)}/s, {rate.source}"),
            (
                "a step reads",
                f"{bytes_text(step.weights)} of weights, {bytes_text(step.cache_per_token)} for each cached token",
            ),
        ]
    )


def _grid(result: Benchmark, *, wrap: bool = True) -> str:
    headers = [
        *(
            "run by",
            "batch",
            "in",
            "out",
            "first token, ms",
            "a token, ms",
            "bound, ms",
            "of bound",
            "tokens/s",
            "memory",
        )
    ]
    if any(cell.memory.gpu is not None for cell in result.cells):
        headers.append("GPU memory")
    return grid(headers, [_row(cell)[: len(headers)] for cell in result.cells], wrap=wrap)


def _kernels(found: LoadKernels) -> str:
    """What the kernels of a load take."""
    load = found.load
    headers = [f"kernel, at {load.batch} x {load.input}", "ops", "until the first token, ms", "a token, ms"]
    rows = [[each.kernel, str(each.ops), _digits(each.first * 1e3), _digits(each.step * 1e3)] for each in found.kernels]
    return grid(headers, rows)


def _row(cell: Cell) -> list[str]:
    from compiler.sizes import bytes_text

    load = cell.load
    return [
        cell.runner,
        *map(str, (load.batch, load.input, load.output)),
        _figure(cell.first, 1e3),
        _figure(cell.each, 1e3),
        "" if cell.bound is None else f"{cell.bound * 1e3:.3g}",
        "" if cell.share is None else f"{cell.share:.0%}",
        _figure(cell.rate, 1.0),
        bytes_text(cell.memory.host),
        "" if cell.memory.gpu is None else bytes_text(cell.memory.gpu),
    ]


def _figure(figure: Figure | None, unit: float) -> str:
    """`12.3 (12.1-12.9)`; nothing if it is not known."""
    if figure is None:
        return ""
    median, least, largest = (_digits(value * unit) for value in (figure.median, figure.least, figure.largest))
    return f"{median} ({least}-{largest})"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
