"""How articles are summarized, and what that gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmc.evaluation.articles import Article
from runtime.generation.sampling_params import SamplingParams


@dataclass(frozen=True)
class SummarySettings:
    """How articles are summarized. The defaults are those with which summaries of cnn_dailymail are usually compared.

    Attributes:
        max_new_tokens: how many tokens a summary has at most.
        input_tokens: how many tokens a prompt has at most, the cue included: a longer article is cut at its end.
        num_beams: how many sequences a beam search follows; 1 for none.
        length_penalty: the power of a summary's length by which a beam search divides its score.
        top_k: from how many of the most likely tokens to draw; 1 takes the most likely one.
        temperature: by what logits are divided before a draw.
        seed: what the draws follow from.
        add_special_tokens: whether prompts get the tokens that the tokenizer puts around a text.
        stem: whether ROUGE compares stems of words.
    """

    max_new_tokens: int = 100
    input_tokens: int = 923
    num_beams: int = 1
    length_penalty: float = 1.0
    top_k: int = 1
    temperature: float = 1.0
    seed: int | None = None
    add_special_tokens: bool = True
    stem: bool = False

    @property
    def params(self) -> SamplingParams:
        """The parameters of each request; RequestError if there are no such."""
        wish: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "num_beams": self.num_beams}
        if self.num_beams != 1:
            wish["length_penalty"] = self.length_penalty
        if self.top_k == 1:
            return SamplingParams(do_sample=False, **wish)
        return SamplingParams(do_sample=True, top_k=self.top_k, temperature=self.temperature, seed=self.seed, **wish)

    @property
    def notes(self) -> list[str]:
        """Sentences about settings that are given and have no effect."""
        said = []
        if self.num_beams == 1 and self.length_penalty != 1:
            said.append(f"--length-penalty {self.length_penalty} has no effect without a beam search (--beams)")
        if self.top_k == 1 and (self.temperature != 1 or self.seed is not None):
            said.append("--temperature and --seed have no effect on --top-k 1, which takes the most likely token")
        return said


@dataclass(frozen=True)
class SummaryRun:
    """The summaries of one model.

    Attributes:
        model: the engine or checkpoint.
        runner: what ran it.
        summaries: the texts, in the order of the articles.
        tokens: how many new tokens they have together.
        seconds: how long all of them took, without loading and a first article that was not counted.
        rouge: mean F-measures from 0 to 100, by type.
    """

    model: str
    runner: str
    summaries: tuple[str, ...]
    tokens: int
    seconds: float
    rouge: Mapping[str, float]

    @property
    def seconds_per_article(self) -> float:
        """The total time over the number of articles; several run at once."""
        return self.seconds / len(self.summaries)

    @property
    def tokens_per_second(self) -> float:
        """New tokens a second over all articles."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """The figures, without the texts."""
        return {
            "model": self.model,
            "runner": self.runner,
            **self.rouge,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "seconds_per_article": self.seconds_per_article,
            "tokens_per_second": self.tokens_per_second,
        }


@dataclass(frozen=True)
class Summaries:
    """What summarizing gave.

    Attributes:
        articles: the articles.
        cut: how many of them were cut, so that the prompt fits.
        batch: how many ran at once.
        runs: the engine's, then that of `transformers`, if it was asked for.
    """

    articles: tuple[Article, ...]
    cut: int
    batch: int
    runs: tuple[SummaryRun, ...]

    @property
    def rouge1(self) -> float:
        """The engine's ROUGE-1, from 0 to 100."""
        return self.runs[0].rouge["rouge1"]

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        engine, *others = (run.to_json() for run in self.runs)
        found = {"articles": len(self.articles), "cut": self.cut, "batch": self.batch, "engine": engine}
        return {**found, "against": others[0]} if others else found

    def rows(self) -> list[dict[str, str]]:
        """For each article its text, its highlights, and the summaries: `summary`, and `against`."""
        names = ("summary", "against")[: len(self.runs)]
        return [
            {"article": article.text, "highlights": article.highlights, **dict(zip(names, texts, strict=True))}
            for article, *texts in zip(self.articles, *(run.summaries for run in self.runs), strict=True)
        ]
