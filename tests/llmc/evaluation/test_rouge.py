"""ROUGE equals what the command line of `rouge-score` writes."""

import csv
import subprocess
import sys

import pytest

from compiler.errors import RequestError
from llmc.evaluation.rouge import ROUGE_TYPES, Rouge

REFERENCES = [
    "The bridge closes in May.\nWalkers may still use it.\nRepairs begin next spring.",
    "A ferry runs on batteries.",
    "Bird counters found eleven hundred pairs of terns.",
    "Nothing in common",
    "The same words.\nIn two lines.",
]
SUMMARIES = [
    "Walkers may use the bridge.\nCars may not: it closes in May for repairs that begin in spring.",
    "The new ferry is running on a battery, and it runs quietly",
    "Terns: 1,100 pairs were counted by counters of birds",
    "zebra quartz",
    "The same words.\nIn two lines.",
]


def test_scores_are_those_of_the_packages_own_command(tmp_path):
    pytest.importorskip("rouge_score")
    mark = "\n@@@\n"  # between texts of several lines
    (tmp_path / "targets").write_text(mark.join(REFERENCES))
    (tmp_path / "found").write_text(mark.join(SUMMARIES))
    command = [
        *(sys.executable, "-m", "rouge_score.rouge", f"--target_filepattern={tmp_path / 'targets'}"),
        *(f"--prediction_filepattern={tmp_path / 'found'}", f"--output_filename={tmp_path / 'scores.csv'}"),
        *(f"--delimiter={mark}", "--noaggregate", "--use_stemmer", f"--rouge_types={','.join(ROUGE_TYPES)}"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(SUMMARIES)
    rouge = Rouge(stem=True)
    for found, row in zip(rouge.each(REFERENCES, SUMMARIES), rows, strict=True):
        assert found == {name: pytest.approx(float(row[f"{name}-F"]), abs=1e-6) for name in ROUGE_TYPES}
    mean = rouge.mean(REFERENCES, SUMMARIES)
    for name in ROUGE_TYPES:
        assert mean[name] == pytest.approx(100 * sum(float(row[f"{name}-F"]) for row in rows) / len(rows), abs=1e-4)
    assert mean["rougeLsum"] > mean["rougeL"]  # the set tells the types apart
    assert mean["rouge1"] > mean["rouge2"] > 0
    assert mean["rouge1"] > Rouge().mean(REFERENCES, SUMMARIES)["rouge1"]  # a battery is no batteries


def test_no_summaries_and_no_package_are_errors(monkeypatch):
    pytest.importorskip("rouge_score")
    with pytest.raises(RequestError, match="no summaries"):
        Rouge().mean([], [])
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(RequestError, match="rouge-score is not installed") as error:
        Rouge()
    assert error.value.hint == 'pip install "llmc[eval]"'
