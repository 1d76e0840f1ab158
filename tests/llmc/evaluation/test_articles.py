"""Articles from every kind of file and folder, and what is said of those that hold none."""

import json
from pathlib import Path

import pytest

from compiler.errors import RequestError
from llmc.evaluation.articles import SAMPLE, Article, ArticleSource, read_articles

ROWS = [{"article": f"Text {i}.\nMore.", "highlights": f"Words {i}.", "id": str(i)} for i in range(3)]
WANTED = [Article(row["article"], row["highlights"]) for row in ROWS]


def lines(path: Path, rows=ROWS) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def saved(folder: Path, form: str) -> Path:
    """The rows in a form that the `datasets` library writes."""
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)
    place = folder / "made"
    match form:
        case "parquet":
            place = folder / "made.parquet"
            data.to_parquet(place)
        case "arrow":
            data.save_to_disk(place)
            place = next(place.glob("*.arrow")).rename(folder / "made.arrow")
        case "saved":
            data.save_to_disk(place)
        case "saved splits":
            datasets.DatasetDict({"train": data.select([2]), "test": data}).save_to_disk(place)
        case "folder":
            place.mkdir()
            lines(place / "test.jsonl")
            lines(place / "train.jsonl", ROWS[:1])
    return place


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json"])
def test_json_lines(tmp_path, name):
    assert read_articles(ArticleSource(str(lines(tmp_path / name)))) == WANTED


def test_a_json_list(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ROWS, indent=1))
    assert read_articles(ArticleSource(str(tmp_path / "a.json")), 2) == WANTED[:2]


@pytest.mark.parametrize("form", ["parquet", "arrow", "saved", "saved splits", "folder"])
def test_what_the_datasets_library_reads(tmp_path, form, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    assert read_articles(ArticleSource(str(saved(tmp_path, form)))) == WANTED


def test_no_more_rows_are_read_than_wanted(tmp_path):
    place = lines(tmp_path / "a.jsonl", ROWS[:2])
    place.write_text(place.read_text() + "{broken")
    assert read_articles(ArticleSource(str(place)), 2) == WANTED[:2]
    with pytest.raises(RequestError, match=r"a.jsonl, line 3 is no JSON"):
        read_articles(ArticleSource(str(place)))


def test_columns_can_be_named(tmp_path):
    place = lines(tmp_path / "a.jsonl", [{"document": "A", "summary": "B"}])
    assert read_articles(ArticleSource(str(place), columns=("document", "summary"))) == [Article("A", "B")]
    with pytest.raises(RequestError, match="has no column 'article'; its columns are document, summary") as error:
        read_articles(ArticleSource(str(place)))
    assert "--columns" in str(error.value)


def test_the_sample_has_ten_articles():
    found = read_articles(ArticleSource(SAMPLE))
    assert len({each.text for each in found}) == 10
    assert all(len(each.highlights) < len(each.text) for each in found)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "has no articles"),
        ("a.jsonl", "[1]\n", "line 1 is [1], not an object"),
        ("a.jsonl", '{"article": 3, "highlights": "b"}\n', "row 1: 'article' is 3, not a text"),
        ("a.jsonl", '{"article": "", "highlights": "b"}\n', "row 1: 'article' is empty, not a text"),
        ("a.jsonl", '{"articel": "a", "highlights": "b"}\n', "no column 'article'; did you mean 'articel'?"),
        ("a.txt", "text", "is no data set: its name ends with '.txt'"),
        ("a.parquet", "no parquet", "cannot read the data set"),
    ],
)
def test_what_is_no_data_set_is_named(tmp_path, name, content, message):
    if name.endswith("parquet"):
        pytest.importorskip("datasets")
    (tmp_path / name).write_text(content)
    with pytest.raises(RequestError) as error:
        read_articles(ArticleSource(str(tmp_path / name)))
    assert message in error.value.message
    assert name in error.value.message


def test_a_file_that_is_missing_has_a_neighbour(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "articles.jsonl")
    with pytest.raises(RequestError, match=r"no file article.jsonl; did you mean 'articles.jsonl'\?"):
        read_articles(ArticleSource("article.jsonl"))


def test_a_folder_without_the_split_says_so(tmp_path):
    place = saved(tmp_path, "folder")
    with pytest.raises(RequestError, match=r"cannot read the data set .*made \(split validation\)"):
        read_articles(ArticleSource(str(place), split="validation"))


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_text("")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(RequestError, match="datasets is not installed, which is needed to read this data set") as error:
        read_articles(ArticleSource(str(tmp_path / "a.parquet")))
    assert error.value.hint == 'pip install "llmc[eval]"'
