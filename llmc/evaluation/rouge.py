"""ROUGE: how much of the words and phrases of a reference a summary has, by the `rouge-score` package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compiler.errors import RequestError
from llmc.evaluation.extras import extra_module

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
"""Words, pairs of words, the longest common subsequence, and that of each line: the lines of `rougeLsum` are those of
the texts, as in the highlights of cnn_dailymail."""


class Rouge:
    """Scores summaries.

    Args:
        stem: whether words count as equal that have one stem (Porter's stemmer), as in `rouge-score --use_stemmer`.

    Raises:
        RequestError: if `rouge-score` is not installed.
    """

    def __init__(self, *, stem: bool = False) -> None:
        scorer = extra_module("rouge_score.rouge_scorer", "rouge-score", "to score summaries")
        self._scorer = scorer.RougeScorer(list(ROUGE_TYPES), use_stemmer=stem)

    def each(self, references: Sequence[str], summaries: Sequence[str]) -> list[dict[str, float]]:
        """The F-measures of each summary against its reference, from 0 to 1, by type."""
        pairs = zip(references, summaries, strict=True)
        return [{name: score.fmeasure for name, score in self._scorer.score(*pair).items()} for pair in pairs]

    def mean(self, references: Sequence[str], summaries: Sequence[str]) -> Mapping[str, float]:
        """The mean F-measures over all summaries, from 0 to 100, by type.

        They are plain means. The intervals that `rouge-score --aggregate` gives are drawn at random, and their middle
        is near to these.

        Raises:
            RequestError: if there are no summaries.
        """
        if not summaries:
            raise RequestError("there are no summaries to score")
        found = self.each(references, summaries)
        return {name: 100 * sum(scores[name] for scores in found) / len(found) for name in ROUGE_TYPES}
