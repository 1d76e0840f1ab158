"""Summaries of articles by an engine, scored by ROUGE and timed, alone or beside `transformers`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import RequestError
from compiler.progress import Progress
from llmc.evaluation.articles import Article, ArticleSource, read_articles
from llmc.evaluation.open_model import Runner, load
from llmc.evaluation.rouge import Rouge
from llmc.evaluation.summaries import Summaries, SummaryRun, SummarySettings
from llmc.evaluation.transformers_model import TransformersModel, check_vocabulary, load_transformers
from llmc.progress import Phases, counter
from runtime.engine_dir.manifest import EngineLimits, Manifest, no_tokenizer, read_manifest
from runtime.generation.engine import Engine
from runtime.generation.in_flight import Update
from runtime.generation.sampling_params import SamplingParams
from runtime.generation.tokenizer import Tokenizer

CUE = " TL;DR:"
"""What stands behind an article, so that a model that was not trained for instructions goes on with a summary."""


@dataclass(frozen=True)
class Task:
    """Everything that summarizing needs but the engine, read and checked before anything is loaded.

    Attributes:
        articles: the articles.
        prompts: the token ids of the prompt of each.
        cut: how many articles were cut, so that the prompt fits.
        settings: how they are summarized.
        rouge: what scores them.
        against: the checkpoint that `transformers` runs; None for none.
        dtype: the element type that it computes in; the engine's if None.
        batch: how many articles run at once.
        in_groups: whether all articles of a batch end before the next ones begin; if not, an article takes the place of
            one that has ended. `transformers` always runs groups.
    """

    articles: tuple[Article, ...]
    prompts: list[list[int]]
    cut: int
    settings: SummarySettings
    rouge: Rouge
    batch: int
    in_groups: bool = False
    against: str | None = None
    dtype: str | None = None
    notes: tuple[str, ...] = ()


def prepare(
    engine: str | Path,
    source: ArticleSource,
    *,
    articles: int | None,
    settings: SummarySettings,
    batch: int | None = None,
    against: str | None = None,
    dtype: str | None = None,
) -> Task:
    """Check a request, and read the articles.

    Args:
        engine: the engine directory, of which only the manifest is read.
        source: the data set.
        articles: how many of its articles at most; None for all.
        settings: how they are summarized.
        batch: how many run at once, in groups; if None, as many as the engine takes, each in the place of one that has
            ended.
        against: a checkpoint for `transformers` to run.
        dtype: the element type that it computes in; the engine's if None.

    Raises:
        RequestError: if the data set, the settings or the checkpoint cannot be, the engine has no tokenizer, or leaves
            no room for a prompt; or if a package is missing.
        EngineError: if there is no such engine.
    """
    manifest = read_manifest(Path(engine).expanduser(), verify=False)
    if manifest.tokenizer is None:
        reason, mend = no_tokenizer(manifest)
        raise RequestError(f"{engine} has no tokenizer{reason}, so it cannot read articles", hint=mend)
    params = settings.params
    _check_sizes(manifest, settings, params)
    if against is not None:
        check_vocabulary(against, manifest.vocab_size)
    elif dtype is not None:
        raise RequestError(f"--dtype {dtype} is for --against; an engine's element type is fixed")
    most = max(1, manifest.limits.max_batch // params.num_beams)
    if batch is not None and not 1 <= batch <= most:
        raise RequestError(
            f"the batch is {batch} articles; the engine takes 1 to {most} of {params.num_beams} sequences each"
        )
    rouge = Rouge(stem=settings.stem)
    found = tuple(read_articles(source, articles))
    tokenizer = Tokenizer(Path(engine).expanduser() / manifest.tokenizer)
    prompts, cut, notes = _prompts(tokenizer, manifest.limits, settings, found)
    return Task(
        found, prompts, cut, settings, rouge, min(batch or most, len(found)), batch is not None, against, dtype,
        notes=(*settings.notes, *notes),
    )  # fmt: skip


def _check_sizes(manifest: Manifest, settings: SummarySettings, params: SamplingParams) -> None:
    if settings.input_tokens < 1:
        raise RequestError(f"--input-tokens is {settings.input_tokens}; it must be at least 1")
    most = manifest.limits.max_batch
    if params.num_beams > most:
        raise RequestError(
            f"the engine runs at most {most} sequences, which are fewer than {params.num_beams} beams",
            hint=f"use --beams {most} or fewer, or compile with --max-batch {params.num_beams}",
        )
    if manifest.limits.max_seq <= settings.max_new_tokens:
        raise RequestError(
            f"{settings.max_new_tokens} new tokens leave no room for an article: the engine holds "
            f"{manifest.limits.max_seq} tokens a sequence",
            hint="use fewer --max-new-tokens, or compile with a larger --max-seq",
        )


def summarize(
    engine: str | Path,
    dataset: str | ArticleSource = "sample",
    *,
    articles: int | None = 20,
    settings: SummarySettings | None = None,
    batch: int | None = None,
    against: str | None = None,
    dtype: str | None = None,
    executor: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    check_files: bool = True,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> Summaries:
    """Summarize articles with an engine, and score the summaries by ROUGE.

    Args:
        engine: the engine directory.
        dataset: where the articles are: the name of an `ArticleSource`, or one.
        articles: how many of them at most; None for all.
        settings: how they are summarized.
        batch: how many articles run at once, in groups; as many as the engine takes if None.
        against: a checkpoint that `transformers` runs on the same prompts, with the same settings.
        dtype: the element type that it computes in; the engine's if None.
        executor: as of `llmc.load`.
        device: as of `llmc.load`.
        threads: as of `llmc.load`.
        check_files: whether to compare the digest of every file of the engine.
        progress: called as work proceeds; see `compiler.progress.Progress`.
        note: called with sentences for the user; warnings if None.

    Raises:
        LlmcError: as of `prepare` and `llmc.load`.
    """
    source = dataset if isinstance(dataset, ArticleSource) else ArticleSource(dataset)
    task = prepare(
        engine, source, articles=articles, settings=settings or SummarySettings(), batch=batch, against=against,
        dtype=dtype,
    )  # fmt: skip
    tell = note or warnings.warn
    runner = Runner(executor, device, threads, check_files)
    how = {"batch": task.batch * task.settings.num_beams, **runner.how}
    loaded = load(engine, progress=progress, verify=check_files, note=tell, **how)
    return summarize_loaded(loaded, task, device=device, progress=progress, note=tell)


def summarize_loaded(
    engine: Engine, task: Task, *, device: str = "auto", progress: Progress | None = None, note: Callable[[str], None]
) -> Summaries:
    """As `summarize`, with an engine that is loaded, on one rank or several."""
    phases = Phases(progress)
    for text in task.notes:
        note(text)
    runs = [_by_engine(engine, task, phases, note)]
    if task.against is not None:
        with phases.phase("loading transformers"):
            model = load_transformers(
                task.against,
                dtype=task.dtype or engine.manifest.dtype,
                device=device,
                end_ids=engine.manifest.tokens.eos,
                note=note,
            )
        runs.append(_by_transformers(model, engine, task, phases))
    return Summaries(task.articles, task.cut, task.batch, tuple(runs))


def _prompts(
    tokenizer: Tokenizer, limits: EngineLimits, settings: SummarySettings, articles: Sequence[Article]
) -> tuple[list[list[int]], int, list[str]]:
    """The token ids of each prompt, how many articles were cut so that it fits, and sentences for the user."""
    room = min(settings.input_tokens, limits.max_input, limits.max_seq - settings.max_new_tokens)
    cue = tokenizer.encode(CUE, add_special_tokens=False)
    if room <= len(cue):
        raise RequestError(
            f"a prompt has room for {room} tokens, of which {CUE.strip()!r} takes {len(cue)}: "
            "nothing is left for an article",
            hint="use fewer --max-new-tokens, or compile with a larger --max-input and --max-seq"
            if settings.input_tokens > room
            else f"use more --input-tokens than {len(cue)}",
        )
    special, notes = settings.add_special_tokens, []
    if special and (token := tokenizer.appended(articles[0].text)) is not None:
        notes.append(
            f"the tokenizer ends every prompt with {token!r}, after which a model takes the text for finished: "
            "--no-special-tokens leaves it out"
        )
    found, cut = [], 0
    for article in articles:
        text = article.text.strip().replace(" n't", "n't")
        ids = tokenizer.encode(text + CUE, add_special_tokens=special)
        if len(ids) > room:
            cut += 1
            ids = tokenizer.encode(text, add_special_tokens=special)[: room - len(cue)] + cue
        found.append(ids)
    return found, cut, notes


def _by_engine(engine: Engine, task: Task, phases: Phases, note: Callable[[str], None]) -> SummaryRun:
    params, prompts = task.settings.params, task.prompts
    with phases.phase("warm up"):
        engine.generate(prompts[:1], params, note=note)
    found, seconds = [], 0.0
    with phases.phase("summarize") as report:
        count = counter(report, len(prompts))

        def ended(update: Update) -> None:
            if update.finished:
                count(1)

        size = task.batch if task.in_groups else len(prompts)
        for start in range(0, len(prompts), size):
            began = time.perf_counter()
            completions = engine.generate(prompts[start : start + size], params, note=note, on_update=ended)
            seconds += time.perf_counter() - began
            found += [(each.text, len(each.token_ids)) for each in completions]
    return _run(task, str(engine.path), f"llmc, {engine.manifest.dtype}, {engine.executor.name}", found, seconds)


def _by_transformers(model: TransformersModel, engine: Engine, task: Task, phases: Phases) -> SummaryRun:
    params, prompts, tokenizer = task.settings.params, task.prompts, engine.tokenizer
    assert tokenizer is not None
    if task.settings.seed is not None:
        import torch

        torch.manual_seed(task.settings.seed)
    with phases.phase("warm up transformers"):
        model.generate(prompts[:1], params)
    found, seconds = [], 0.0
    with phases.phase("summarize by transformers") as report:
        for start in range(0, len(prompts), task.batch):
            batch = prompts[start : start + task.batch]
            began = time.perf_counter()
            texts = model.generate(batch, params)
            seconds += time.perf_counter() - began
            for prompt, new in zip(batch, texts, strict=True):
                shown = new[:-1] if new and new[-1] in model.end_ids else new
                found.append((tokenizer.continuation(prompt, shown)[1], len(new)))
            report(start + len(batch), len(prompts))
    return _run(task, model.name, model.runner, found, seconds)


def _run(task: Task, model: str, runner: str, found: Sequence[tuple[str, int]], seconds: float) -> SummaryRun:
    texts = tuple(text.strip() for text, _ in found)
    rouge = task.rouge.mean([article.highlights for article in task.articles], texts)
    return SummaryRun(model, runner, texts, sum(tokens for _, tokens in found), seconds, rouge)
