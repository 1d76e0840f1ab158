"""`llmc run`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmc.cli import options
from llmc.cli.console import Console, note
from llmc.cli.prompts import Prompt, TaskPrompt, gather_requests
from llmc.cli.ranks import hosts_chosen, needs_ranks, on_ranks
from llmc.cli.sampling_options import sampling_options
from runtime.engine_dir.manifest import read_manifest
from runtime.generation.sampling_params import DEFAULT_NEW_TOKENS, SamplingParams
from runtime.generation.timings import Timings
from runtime.load.ignored_options import ignored_notes
from runtime.processes.environment import rank_from_environment, world_size_from_environment
from runtime.processes.streams import standard_input, started_by_llmc, writes_to_terminal

if TYPE_CHECKING:
    from runtime.generation.completion import Completion
    from runtime.generation.engine import Engine


@sampling_options
def run_command(
    engine: Annotated[Path, typer.Argument(help="An engine directory, as llmc compile writes it.")],
    prompt: options.Prompts = None,
    prompt_file: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help='Prompts, one per line; .json: a list; .jsonl: strings or objects with "prompt" and perhaps "task"; '
            "-: standard input.",
        ),
    ] = None,
    prompt_ids: options.PromptIds = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Show texts while they come, those of one prompt after the other.")
    ] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="Read prompts from the terminal; Ctrl-C ends a text, Ctrl-D all.")
    ] = False,
    chat: Annotated[
        bool, typer.Option("--chat", help="Write prompts as messages, by the checkpoint's chat template.")
    ] = False,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The task whose virtual tokens stand before the prompts; none if not given. llmc inspect lists an "
            "engine's tasks.",
        ),
    ] = None,
    no_special_tokens: options.NoSpecialTokens = False,
    json_output: options.Json = False,
    stats: Annotated[bool, typer.Option("--stats", help="Print timings on standard error.")] = False,
    device: options.Device = "auto",
    threads: options.Threads = None,
    executor: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="auto, cpu, cuda, torch, tensorrt, emulator (TensorRT engines on the CPU, slow) or interpreter.",
        ),
    ] = "auto",
    cache_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="How many tokens all texts in progress may have together, in paged caches; if not given, those of "
            "--max-batch texts of --max-seq tokens, or as many as there is memory for.",
        ),
    ] = None,
    paged_cache: Annotated[
        bool, typer.Option("--paged-cache", help="Page the caches of an engine that was compiled with linear ones.")
    ] = False,
    hostfile: options.Hostfile = None,
    no_verify: options.NoVerify = False,
    plugin: options.Plugins = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    *,
    sampling: dict[str, Any],
) -> None:
    """Run an engine: extend prompts.

    Tokens are chosen greedily, unless options or the checkpoint's generation_config.json say otherwise. Prompts run
    together, as many at once as the engine was compiled for; that changes nothing in their texts.
    An engine of several ranks starts them by mpirun, each on a GPU of its own where there are any; under your own
    mpirun -n RANKS it uses those (docs/mpi.md).
    With --json, standard output gets one object per line for each text, in the order of the prompts, with the keys
    prompt, prompt_ids, text, token_ids and finish_reason; text and token_ids hold the new tokens only.

    \b
    llmc run my.engine --prompt "Once upon a time" --max-new-tokens 32
    llmc run my.engine --prompt-file prompts.txt --json > texts.jsonl
    echo "Once upon a time" | llmc run my.engine --prompt-file - --stats
    llmc run my.engine --prompt "Once upon a time" --temperature 0.8 --top-p 0.95 --n 4 --seed 1
    llmc run my.engine --prompt "Once upon a time" --beams 4 --num-return-sequences 2
    llmc run my.engine --interactive --stop "\n\n"
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    started = time.perf_counter()
    piped = None
    prompts: list[TaskPrompt] = []
    if rank_from_environment() == 0:  # the prompts are rank 0's
        piped = standard_input() if "-" in (prompt_file or ()) else None
        given = gather_requests(prompt or (), prompt_file or (), prompt_ids or (), lambda: piped or b"")
        prompts = [TaskPrompt(each.prompt, each.task or task) for each in given]
        if not prompts and not interactive:
            raise typer.BadParameter("give --prompt, --prompt-file or --prompt-ids, or --interactive")
        if prompts and interactive:
            raise typer.BadParameter("prompts are read from the terminal", param_hint="--interactive")
    several = needs_ranks(engine)
    if hostfile is not None and not several:
        raise typer.BadParameter(f"{engine} is an engine of one rank, which needs no hosts", param_hint="--hostfile")
    if interactive and world_size_from_environment() and not started_by_llmc():
        raise typer.BadParameter(
            "your mpirun stands between the ranks and the terminal; without it, llmc run starts the ranks itself",
            param_hint="--interactive",
        )
    tasks = {task, *(each.task for each in prompts)}
    params = _params(engine, sampling, tasks)  # refuses what cannot be before anything is loaded
    notes = list(ignored_notes(hosts_chosen(hostfile)))
    how: Any = {
        "device": device, "executor": executor, "threads": threads, "batch": len(prompts) or None,
        "cache_tokens": cache_tokens, "paged_cache": paged_cache, "verify": not no_verify, "note": notes.append,
    }  # fmt: skip

    def answer(loaded: Engine) -> None:
        load_seconds = time.perf_counter() - started
        special = not (no_special_tokens or chat)
        if stream or interactive:
            from llmc.cli import interactive as live
            from llmc.cli.terminal import OwnTerminal, own_or_remote

            terminal = own_or_remote() if interactive else OwnTerminal()
            made: Any = {"add_special_tokens": special, "note": lambda text: None if quiet else note(text)}
            if json_output:
                show = live.shown_as_json(loaded, params, terminal, **made)
            else:
                show = live.shown(loaded, params, terminal, with_prompt=not (interactive or chat), **made)
            for text in () if quiet else notes:
                note(text)
            timings = Timings()

            def timed(prompt: Prompt, task: str | None) -> Completion | None:
                try:
                    return show(prompt, task)
                finally:
                    timings.include(loaded.timings)

            if interactive:
                live.converse(loaded, timed, terminal, chat=chat, task=task)
            else:
                streamed = _messages(loaded, prompts) if chat else prompts
                live.stream_prompts(streamed, timed, numbered=not json_output)
            if stats:
                print(_stats(loaded, timings, load_seconds), file=sys.stderr)
            return
        given = _messages(loaded, prompts) if chat else prompts
        with Console(quiet=quiet, bars_only=True) as console:
            completions = _generate(loaded, given, params, special, console, notes)
        if not quiet:
            for text in notes:
                note(text)
        for number, completion in enumerate(completions, 1):
            text = _text(completion, number, len(completions), readable=loaded.tokenizer is not None)
            print(json.dumps(completion.to_json()) if json_output else text)
        if stats:
            print(_stats(loaded, loaded.timings, load_seconds), file=sys.stderr)

    if several:
        on_ranks(engine, answer, hostfile=hostfile, stdin=piped, interactive=interactive, **how)
        return
    from llmc.evaluation.open_model import load

    with Console(quiet=quiet, bars_only=True) as console:
        loaded = load(engine, progress=console, **how)
    answer(loaded)


def _params(engine: Path, sampling: Mapping[str, Any], tasks: Iterable[str | None] = ()) -> SamplingParams:
    """The parameters of every request: what the command line says, and for the rest the engine's own defaults.

    Raises:
        RequestError: if there are no such parameters, or the engine has not all of the tasks.
    """
    from runtime.generation.generation_config import generation_defaults

    manifest = read_manifest(engine.expanduser(), verify=False)
    for task in tasks:
        manifest.task(task)
    return generation_defaults(manifest.generation).params.changed(**sampling)


def _messages(loaded: Engine, prompts: Iterable[TaskPrompt]) -> list[TaskPrompt]:
    return [TaskPrompt(_message(loaded, each.prompt), each.task) for each in prompts]


def _message(loaded: Engine, prompt: Prompt) -> Prompt:
    """A prompt as a user's message, by the checkpoint's chat template."""
    from runtime.generation.chat import apply_chat_template

    if not isinstance(prompt, str):
        raise typer.BadParameter("messages are texts: give --prompt or --prompt-file", param_hint="--chat")
    return apply_chat_template(loaded.path, [{"role": "user", "content": prompt}])


def _generate(
    loaded: Engine,
    prompts: Sequence[TaskPrompt],
    params: SamplingParams,
    special: bool,
    console: Console,
    notes: list[str],
) -> list[Completion]:
    from llmc.progress import Phases, counter

    with Phases(console).phase("generate") as report:
        count = counter(report, len(prompts) * params.n * (params.max_new_tokens or DEFAULT_NEW_TOKENS))
        on_token = (lambda request, token: count(1)) if console.bars else None
        texts, tasks = [each.prompt for each in prompts], [each.task for each in prompts]
        how: Any = {"task": tasks, "add_special_tokens": special, "on_token": on_token, "note": notes.append}
        return loaded.generate(texts, params, **how)


def _text(completion: Completion, number: int, count: int, *, readable: bool) -> str:
    """The prompt, as it goes on: text, or ids if it is not `readable`; prompts of several are numbered."""
    prompt, text = completion.prompt, completion.text
    if not readable:
        prompt = " ".join(map(str, completion.prompt_ids)) + " | "
        text = " ".join(map(str, completion.token_ids))
    if writes_to_terminal():
        prompt = f"\033[1m{prompt}\033[0m"
    head = f"--- {number} of {count} ---\n" if count > 1 else ""
    return f"{head}{prompt}{text}"


def _stats(engine: Engine, timings: Timings, load_seconds: float) -> str:
    times = "1 preemption" if timings.preemptions == 1 else f"{timings.preemptions} preemptions"
    again = f"{times}; " if timings.preemptions else ""
    return (
        f"load {load_seconds:.2f} s; "
        f"prefill {timings.prefill_tokens} tokens in {timings.prefill_seconds * 1e3:.1f} ms; "
        f"decode {timings.decode_tokens} tokens in {timings.decode_seconds * 1e3:.1f} ms, "
        f"{timings.decode_rate:.1f} tokens/s; {timings.steps} steps; {again}executor {engine.executor.name}"
    )
