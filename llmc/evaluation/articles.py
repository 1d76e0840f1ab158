"""Articles with their highlights, from files, folders and the hub, in the schema of cnn_dailymail."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from compiler.errors import RequestError
from compiler.suggest import did_you_mean, did_you_mean_path
from compiler.text_files import read_text
from llmc.evaluation.extras import extra_module

SAMPLE = "sample"
"""The data set that comes with llmc: ten short articles, for demonstrations and tests."""

_LINES = (".jsonl", ".json", ".ndjson")
_BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}
_CONFIGS = {"cnn_dailymail": "3.0.0"}  # data sets of the hub that come in several versions, and the usual one
_FORM = "give a file (.jsonl, .json, .parquet, .arrow), a folder of such files, or a data set of the hub"


@dataclass(frozen=True)
class Article:
    """A text, and what somebody wrote as its summary."""

    text: str
    highlights: str


@dataclass(frozen=True)
class ArticleSource:
    """Where articles come from.

    Attributes:
        name: a file (`.jsonl`, `.json`, `.ndjson`, `.parquet`, `.arrow`), a folder that the `datasets` library reads or
            has saved, the name of a data set of the hub, or `sample`.
        split: the part of a folder or of a data set of the hub, such as `test`.
        config: the version of a data set of the hub that has several; None for the usual one.
        columns: the columns that hold the articles and the highlights.
    """

    name: str = SAMPLE
    split: str = "test"
    config: str | None = None
    columns: tuple[str, str] = ("article", "highlights")


def read_articles(source: ArticleSource, count: int | None = None) -> list[Article]:
    """The first articles of a data set.

    Args:
        source: the data set.
        count: how many at most; None for all. No more than these are read.

    Raises:
        RequestError: if there is no such data set or it cannot be read, a column is missing, a row has no text there,
            or there are no rows; if `datasets` is needed and not installed.
    """
    if count is not None and count < 1:
        raise RequestError(f"the number of articles is {count}; it must be at least 1")
    rows = itertools.islice(_rows(source), count)
    articles = [_article(row, number, source) for number, row in enumerate(rows, 1)]
    if not articles:
        raise RequestError(f"{source.name} has no articles", hint="give a data set with a row or more")
    return articles


def _article(row: Mapping[str, Any], number: int, source: ArticleSource) -> Article:
    texts = []
    for column in source.columns:
        if column not in row:
            names = ", ".join(map(str, row)) or "none"
            raise RequestError(
                f"{source.name} has no column {column!r}{did_you_mean(column, [str(name) for name in row])}; "
                f"its columns are {names}",
                hint="name the columns of articles and highlights: --columns ARTICLE,HIGHLIGHTS",
            )
        text = row[column]
        if not isinstance(text, str) or not text.strip():
            raise RequestError(
                f"{source.name}, row {number}: {column!r} is {'empty' if text == '' else repr(text)[:80]}, not a text",
                hint="every article and its highlights must be a text",
            )
        texts.append(text)
    return Article(*texts)


def _rows(source: ArticleSource) -> Iterable[Mapping[str, Any]]:
    path = Path(source.name).expanduser()
    if path.is_file():
        if path.suffix in _LINES:
            return _json_rows(path)
        if path.suffix not in _BUILDERS:
            raise RequestError(f"{source.name} is no data set: its name ends with {path.suffix!r}", hint=_FORM)
        return _loaded(source, _BUILDERS[path.suffix], data_files=str(path), split="train")
    if source.name == SAMPLE:
        return _json_rows(Path(str(files("llmc.evaluation") / "articles.jsonl")))
    if path.is_dir():
        if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            return _saved(source, path)
        return _loaded(source, str(path), name=source.config, split=source.split)
    if path.suffix in (*_LINES, *_BUILDERS) or source.name.startswith((".", "/", "~")):
        raise RequestError(f"there is no file {source.name}{did_you_mean_path(path, Path.is_file)}", hint=_FORM)
    config = source.config or _CONFIGS.get(source.name.rpartition("/")[2])
    return _loaded(source, source.name, name=config, split=source.split)


def _json_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The objects of a file: one a line, or one list of all."""
    text = read_text(path, RequestError, what="the articles in").text
    if path.suffix == ".json" and text.lstrip().startswith("["):
        yield from (_object(row, f"{path}, row {number}") for number, row in enumerate(_parsed(text, str(path)), 1))
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield _object(_parsed(line, f"{path}, line {number}"), f"{path}, line {number}")


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"{place} is no JSON: {error}", hint="write an object with its columns on each line"
        ) from None


def _object(row: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise RequestError(
            f"{place} is {row!r:.60}, not an object", hint="write an object with its columns on each line"
        )
    return row


def _loaded(source: ArticleSource, builder: str, **how: Any) -> Iterator[Mapping[str, Any]]:
    """The rows of what the `datasets` library finds, one by one: a data set of the hub is not fetched as a whole."""
    datasets = _library()
    try:
        yield from datasets.load_dataset(builder, streaming=True, **how)
    except Exception as error:  # noqa: BLE001 - the library and the file systems beneath it raise anything
        raise _unreadable(source, error) from None


def _saved(source: ArticleSource, path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a folder that the `datasets` library has saved."""
    datasets = _library()
    try:
        found = datasets.load_from_disk(str(path))
        yield from found[source.split] if isinstance(found, datasets.DatasetDict) else found
    except Exception as error:  # noqa: BLE001 - as above
        raise _unreadable(source, error) from None


def _library() -> Any:
    """The `datasets` library, which shows no bars and warnings of its own: what is wrong is said once, by an error."""
    datasets = extra_module("datasets", "datasets", "to read this data set")
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    return datasets


def _unreadable(source: ArticleSource, error: Exception) -> RequestError:
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    part = f" (split {source.split})" if not Path(source.name).expanduser().is_file() else ""
    return RequestError(f"cannot read the data set {source.name}{part}: {reason}", hint=_FORM)
