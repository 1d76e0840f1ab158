"""What quantization does to the outputs of each linear, measured on calibration data."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

ReportExtent = Literal["full", "quick", "off"]
"""Of which ops the error is measured: of all; quickly, of what takes a small part of compiling; or of none."""


@dataclass(frozen=True)
class OpError:
    """The error of one quantized op.

    Attributes:
        op: the op's name in the graph.
        module: the module of the checkpoint that its weight comes from.
        recipe: how it was quantized, such as `gptq, 4 bits, group 128`.
        error: the norm of the error of its outputs, as a part of the norm of its outputs.
    """

    op: str
    module: str
    recipe: str
    error: float

    def to_json(self) -> dict[str, Any]:
        """The entry of a manifest."""
        return {"op": self.op, "module": self.module, "recipe": self.recipe, "error": self.error}


@dataclass(frozen=True)
class ErrorSample:
    """What a quick report of a pass measured.

    Attributes:
        recipe: how the ops are quantized, such as `int8, 8 bits`.
        measured: how many ops were measured.
        quantized: how many ops are quantized in this way.
        windows: how many windows of the calibration text the model ran on; 0 if nothing was measured.
        tokens: how many tokens a window has.
    """

    recipe: str
    measured: int
    quantized: int
    windows: int
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """The entry of a manifest."""
        return asdict(self)

    def text(self) -> str:
        """A line for a reader: `quick report: 4 of 96 ops (int8, 8 bits), on 4 windows of 16 tokens`."""
        where = f", on {self.windows} windows of {self.tokens} tokens" if self.measured else ""
        return f"quick report: {self.measured} of {self.quantized} ops ({self.recipe}){where}; all with --report full"


@dataclass
class QuantizationErrorReport:
    """The errors of quantized ops, in the order in which passes found them.

    Each is the op's own error: its inputs are those that calibration gave it, before they were rounded.

    Attributes:
        entries: the errors.
        extent: of which ops the error is to be measured. What calibrates anyway measures all of its ops, unless `off`.
        samples: what was measured where the report is a quick one that leaves something out.
    """

    entries: list[OpError] = field(default_factory=list)
    extent: ReportExtent = "quick"
    samples: list[ErrorSample] = field(default_factory=list)

    def worst(self, count: int = 5) -> list[OpError]:
        """The ops with the largest errors, the largest first."""
        return sorted(self.entries, key=lambda entry: -entry.error)[:count]

    def leave(self, ops: Collection[str]) -> None:
        """Note of some ops, by name, that they are not quantized after all; what it would have cost them stays."""
        self.entries = [replace(entry, recipe="left as it is") if entry.op in ops else entry for entry in self.entries]

    @property
    def mean(self) -> float:
        """The mean of the errors; 0 if nothing was quantized."""
        return sum(entry.error for entry in self.entries) / max(len(self.entries), 1)

    def to_json(self) -> dict[str, Any]:
        """What a manifest keeps: the extent, every op that was measured, in order, and what a quick report left out."""
        return {
            "report": self.extent,
            "mean": self.mean if self.entries else None,
            "ops": [entry.to_json() for entry in self.entries],
            "samples": [sample.to_json() for sample in self.samples],
        }

    def text(self, count: int = 5, width: int | None = None) -> str:
        """A few lines for a reader: the mean, the worst ops by name, and what a quick report left out.

        Empty if nothing was measured.

        Args:
            count: how many ops.
            width: how many characters a line may have; longer ones go on below the op's name. None for any number.
        """
        left_out = [_filled(sample.text().split(" "), 2, width) for sample in self.samples]
        if not self.entries:
            return "\n".join(left_out)
        first = f"{len(self.entries)} quantized ops, relative error of outputs {self.mean:.2%} on average; the worst:"
        rows = [
            _filled((f"  {entry.error:7.2%}  {entry.op}", f"from {entry.module}", f"({entry.recipe})"), 11, width)
            for entry in self.worst(count)
        ]
        return "\n".join([_filled(first.split(" "), 2, width), *rows, *left_out])


def _filled(parts: Sequence[str], indent: int, width: int | None) -> str:
    """Parts side by side, as many a line as fit into the width; lines after the first are indented."""
    lines = [parts[0]]
    for part in parts[1:]:
        if width is None or len(lines[-1]) + 1 + len(part) <= width:
            lines[-1] += f" {part}"
        else:
            lines.append(" " * indent + part)
    return "\n".join(lines)
