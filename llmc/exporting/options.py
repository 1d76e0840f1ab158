"""How a model is exported, and what of it can be checked without the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from compiler.errors import ExportError
from compiler.suggest import did_you_mean

if TYPE_CHECKING:
    from llmc.pipeline import Passes

DEFAULT_SHARD_SIZE = "5GB"
# What a thousand, or 1024 with an i behind it, is raised to.
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?", re.IGNORECASE)


class ExportKeywords(TypedDict, total=False):
    """The options of `ExportOptions` by name."""

    passes: Passes
    dtype: str | None
    max_shard_size: int | str
    calib: str | Path | None
    calib_samples: int | None
    calib_length: int | None
    calib_seed: int
    report: str
    weights: str | Path | None
    weights_format: str | None
    scales: str | Path | None
    config: str | Path | None
    plugins: Sequence[str | Path]
    verify: bool


@dataclass(frozen=True)
class ExportOptions:
    """How a model is exported.

    Attributes:
        passes: rewrites of the graph, in order; nothing is added to them.
        dtype: the element type of what is not quantized; the checkpoint's own if None.
        max_shard_size: how many bytes of tensors a file may hold: a number, or a text such as `5GB` or `500MiB`.
        calib: a text for quantization to calibrate with; one that comes with the compiler if None.
        calib_samples: how many windows of it to use; up to 128 if None.
        calib_length: how many tokens a window has; up to 512 if None.
        calib_seed: decides which windows are used.
        report: of which quantized ops the error of outputs is measured: `full`: of all; `quick`: of so many that it
            takes less than a tenth of the time; `off`: of none. What calibrates anyway measures all of its ops, unless
            `off`.
        weights: a file of weights, instead of those in the checkpoint's folder.
        weights_format: how weights are stored where no file says it, such as `gptq:bits=4:group=128`.
        scales: a file of scales of AMMO or ModelOpt, which weights, inputs and caches are quantized with.
        config: for an engine that does not hold it: the `config.json` of its checkpoint, or the folder that has it.
        plugins: Python files that register passes, ops or families.
        verify: of an engine, whether to compare the digest of every file first.
    """

    passes: Passes = ""
    dtype: str | None = None
    max_shard_size: int | str = DEFAULT_SHARD_SIZE
    calib: str | Path | None = None
    calib_samples: int | None = None
    calib_length: int | None = None
    calib_seed: int = 0
    report: str = "quick"
    weights: str | Path | None = None
    weights_format: str | None = None
    scales: str | Path | None = None
    config: str | Path | None = None
    plugins: Sequence[str | Path] = ()
    verify: bool = True

    def changed(self, changes: ExportKeywords) -> ExportOptions:
        """The options with some of them changed; ExportError, with a suggestion, for one that does not exist."""
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                raise ExportError(
                    f"export has no option {name!r}{did_you_mean(name, known)}", hint=f"it has: {', '.join(known)}"
                )
        return replace(self, **changes)

    @property
    def given(self) -> dict[str, bool]:
        """Whether each option that says what to make of a checkpoint is given, by its name on the command line."""
        usual = ExportOptions()
        names: tuple[str, ...] = ("passes", "dtype", "calib", "calib_samples", "calib_length", "calib_seed", "report")
        names += ("weights", "weights_format", "scales")
        return {f"--{name.replace('_', '-')}": getattr(self, name) != getattr(usual, name) for name in names}


def shard_size(given: int | str) -> int:
    """The bytes that a text such as `5GB` (powers of ten) or `500MiB` (powers of two) stands for.

    Raises:
        ExportError: if it is no size, or none that a file can have.
    """
    found = _SIZE.fullmatch(str(given).strip())
    size = 0
    if found is not None:
        number, prefix, binary = found.groups(default="")
        size = int(float(number) * (1024 if binary else 1000) ** _POWERS[prefix.lower()])
    if size < 1:
        raise ExportError(
            f"{str(given)!r} is no size of a file", hint="write one such as --max-shard-size 5GB or 500MiB"
        )
    return size
