"""Who is measured by `cpu.py`, with which recipes, and the figures of each."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from cpu_contender import Job
from cpu_processes import Answer

FEW, MANY = 8, 64
LOADS = {(1, 64): (1, FEW, MANY), (8, 64): (1, FEW, MANY), (1, 512): (1,)}
"""For how many sequences, and prompts of how many tokens, how many new tokens are asked for."""

_BITS8 = ["int8", "int8:head=int8", "int8:act=token"]
_BITS4 = ["int4:group=128", "int4:group=128:head=int8"]
_TYPES = ["float32", "bfloat16"]
PRECISIONS: dict[str, dict[str, list[str]]] = {
    "float32": {"llmc": ["float32"], "transformers": ["float32"], "llama.cpp": ["f32"], "OpenVINO": ["float32"],
                "CTranslate2": ["float32"]},
    "16-bit": {"llmc": ["float16", "bfloat16"], "transformers": ["bfloat16"], "llama.cpp": ["f16", "bf16"],
               "OpenVINO": ["bfloat16"], "CTranslate2": ["bfloat16"]},
    "int8": {"llmc": [f"{recipe}, {dtype}" for recipe in _BITS8 for dtype in _TYPES], "llama.cpp": ["q8_0"],
             "OpenVINO": ["int8"], "CTranslate2": ["int8"]},
    "int4": {"llmc": [f"{recipe}, {dtype}" for recipe in _BITS4 for dtype in _TYPES], "llama.cpp": ["q4_0"],
             "OpenVINO": ["int4"]},
}  # fmt: skip
"""The recipes of each contender that are measured beside each other."""


@dataclass
class Entry:
    """A contender with a recipe, and what was measured of it.

    Attributes:
        shape: the shape.
        precision: the precision among which it stands.
        who: a key of `MODULES`.
        recipe: what it runs.
        executor: llmc's executor; empty for others.
        facts: what it says of itself.
        seconds: of each turn, by sequences, tokens of the prompt and new tokens.
        tokens: the new tokens of each text, in the order in which they were asked for.
        disturbed: the share of the machine's processor time that others took during each answer.
        failure: why there is nothing.
    """

    shape: str
    precision: str
    who: str
    recipe: str
    executor: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: dict[tuple[int, int, int], list[float]] = field(default_factory=dict)
    tokens: list[list[int]] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)
    failure: str = ""

    FIGURES: ClassVar = ("step, batch 1", "step, batch 8", "prompt 64", "prompt 8 x 64", "prompt 512")

    @property
    def name(self) -> str:
        """What tables call it: `llmc (torch): int8, float32`."""
        return f"{self.who} ({self.executor}): {self.recipe}" if self.executor else f"{self.who}: {self.recipe}"

    @property
    def turns(self) -> int:
        """How often it was asked."""
        return max(map(len, self.seconds.values()), default=0)

    def job(self, folder: Path, threads: int) -> Job:
        """What its process is given; `folder` is that of the shape."""
        own = f"{self.who}-{self.recipe}".replace(", ", "-").replace(":", "-").replace("=", "")
        options = {"executor": self.executor, "prompts": sorted({prompt for _, prompt in LOADS})}
        return Job(
            self.who, self.recipe, str(folder / "checkpoint"), str(folder / own), threads,
            options if self.executor else {},
        )  # fmt: skip

    def add(self, batch: int, prompt: int, new: int, answer: Answer) -> None:
        """Note an answer."""
        self.seconds.setdefault((batch, prompt, new), []).append(answer.seconds)
        self.tokens += answer.tokens
        self.disturbed.append(answer.disturbed)

    def step_ms(self, batch: int) -> float | None:
        """Milliseconds of a step that decodes so many sequences."""
        few, many = (self.seconds.get((batch, 64, new), []) for new in (FEW, MANY))
        steps = [(b - a) / (MANY - FEW) * 1e3 for a, b in zip(few, many, strict=False)]
        return statistics.median(steps) if steps else None

    def prompt_ms(self, batch: int, prompt: int) -> float | None:
        """Milliseconds until the first token."""
        found = self.seconds.get((batch, prompt, 1))
        return statistics.median(found) * 1e3 if found else None

    def figures(self) -> dict[str, float | None]:
        """All figures by their names, `FIGURES`, in milliseconds."""
        values = (
            self.step_ms(1),
            self.step_ms(8),
            self.prompt_ms(1, 64),
            self.prompt_ms(8, 64),
            self.prompt_ms(1, 512),
        )
        return dict(zip(self.FIGURES, values, strict=True))


def best_of_others(group: list[Entry]) -> dict[str, float]:
    """The least time of all contenders but llmc, by the figure's name."""
    found: dict[str, float] = {}
    for entry in group:
        if entry.who != "llmc":
            for name, value in entry.figures().items():
                if value is not None:
                    found[name] = min(value, found.get(name, value))
    return found


def equal_tokens(entry: Entry, group: list[Entry]) -> float | None:
    """The share of the tokens that are those of transformers, up to the first other one of each text."""
    expected = next((other.tokens for other in group if other.who == "transformers"), None)
    if not expected or len(expected) != len(entry.tokens):
        return None
    same = sum(_leading(*pair) for pair in zip(entry.tokens, expected, strict=True))
    return same / sum(map(len, expected))


def _leading(tokens: list[int], others: list[int]) -> int:
    """How many tokens are equal before the first that is not."""
    pairs = enumerate(zip(tokens, others, strict=True))
    return next((at for at, (one, other) in pairs if one != other), len(tokens))


def share(part: float | None, whole: float | None) -> float | None:
    """A ratio, if both are there."""
    return part / whole if part and whole else None
