"""Calibration as a compilation offers it to its passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import torch

from compiler.errors import PassError
from compiler.passes.quant.calibration.source import CalibrationSource
from compiler.passes.quant.calibration.text import Document, read_texts
from compiler.passes.quant.report import QuantizationErrorReport, ReportExtent
from compiler.progress import Progress
from compiler.suggest import did_you_mean
from llmc.compiling.tokenizer_export import has_tokenizer, write_tokenizer
from llmc.seeds import check_seed
from runtime.engine_dir.manifest import NoTokenizer
from runtime.generation.tokenizer import Tokenizer

STAGE = "calibrate"

# Random documents for made-up weights: how many, and of how many tokens.
_RANDOM, _LENGTH = 16, 512


@dataclass(frozen=True)
class CalibrationSettings:
    """What a user says about calibration.

    Attributes:
        documents: the texts; those that come with the compiler if there are none.
        samples: how many windows of the texts to use; as many as there are, up to 128, if None.
        length: tokens of a window; 512, or what the model takes at once if that is less, if None.
        seed: decides which windows are used.
        report: of which quantized ops the error is measured.
    """

    documents: Sequence[Document] = ()
    samples: int | None = None
    length: int | None = None
    seed: int = 0
    report: ReportExtent = "quick"

    @property
    def given(self) -> dict[str, bool]:
        """Whether each has another value than its default, by the name of its option."""
        usual = CalibrationSettings()
        return {
            "calib": bool(self.documents),
            **{f"calib-{name}": getattr(self, name) != getattr(usual, name) for name in ("samples", "length", "seed")},
        }

    def source(self, tokenizer: Path, progress: Progress, *, made_up: int | None = None) -> CalibrationSource:
        """The calibration for a checkpoint. Its tokenizer is loaded when it is needed.

        Args:
            tokenizer: the file of its tokenizer, or the folder that may hold one.
            progress: called as calibration proceeds.
            made_up: of a model with made-up weights, how many token ids it has: without a tokenizer or texts, random
                ones serve as well as any.
        """
        known = has_tokenizer(tokenizer)
        random = made_up is not None and not known and not self.documents
        return CalibrationSource(
            encode=_encoder(tokenizer) if known else None,
            documents=_random_documents(made_up or 1, self.seed) if random else self.documents,
            samples=self.samples,
            length=self.length,
            seed=self.seed,
            progress=lambda done, total: progress(STAGE, done, total),
            report=QuantizationErrorReport(extent=self.report),
        )


def calibration_settings(
    calib: str | Path | None = None,
    samples: int | None = None,
    length: int | None = None,
    seed: int = 0,
    report: str = "quick",
) -> CalibrationSettings:
    """The settings with the texts of a file.

    Raises:
        PassError: if the file cannot be read, is empty or malformed, or there is no such seed or report.
    """
    check_seed(seed, PassError)
    extents: tuple[ReportExtent, ...] = get_args(ReportExtent)
    extent = next((known for known in extents if known == report), None)
    if extent is None:
        raise PassError(
            f"there is no report {report!r} of quantization errors{did_you_mean(report, extents)}",
            hint=f"--report is one of {', '.join(extents)}",
        )
    return CalibrationSettings(() if calib is None else read_texts(calib), samples, length, seed, extent)


def _random_documents(vocabulary: int, seed: int) -> tuple[Document, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(vocabulary, (_RANDOM, _LENGTH), generator=generator).tolist())


def _encoder(source: Path) -> Callable[[str], list[int]]:
    """A function from text to token ids that loads the tokenizer when it is called first."""

    @cache
    def tokenizer() -> Tokenizer:
        with TemporaryDirectory() as temporary:
            written = write_tokenizer(source, Path(temporary))
            if isinstance(written, NoTokenizer):
                raise PassError(
                    f"the calibration text cannot be read without a tokenizer: {written.reason}",
                    hint=f"{written.mend}; or give token ids: "
                    '--calib FILE.jsonl with lines such as {"token_ids": [1, 2, 3]}',
                )
            return Tokenizer(Path(temporary) / written)

    return lambda text: tokenizer().encode(text)
