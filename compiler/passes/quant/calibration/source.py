"""What passes calibrate with: which windows of which texts, on what device; and what they tell about their errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from compiler.errors import PassError
from compiler.ir.graph import Graph
from compiler.ir.running_pass import what_runs
from compiler.ir.step import StepDim
from compiler.ir.tasks import tasks_of
from compiler.passes.quant.calibration.text import Document, default_texts
from compiler.passes.quant.report import QuantizationErrorReport
from compiler.progress import Report, unheard

SAMPLES = 128
LENGTH = 512

# More than a token has in any usual text: so many characters are surely enough for a token.
_CHARACTERS = 64


@dataclass
class CalibrationSource:
    """The data of a calibration. Like a trace, it reaches passes by way of the context: `with source.active():`.

    Attributes:
        encode: from text to token ids, such as a tokenizer's `encode`; None if all documents are token ids.
        documents: the texts, or their token ids; the text that comes with the compiler if there are none.
        samples: how many windows to use; as many as the texts have, up to 128, if None.
        length: tokens of a window; 512, or what the model takes at once if that is less, if None.
        seed: decides which windows are used, if there are more.
        device: where to compute; a CUDA GPU if there is one, if None.
        progress: called as `progress(done, total)`.
        report: what passes found out about their errors.
        used: whether a pass has asked for windows.
    """

    encode: Callable[[str], Sequence[int]] | None = None
    documents: Sequence[Document] = ()
    samples: int | None = None
    length: int | None = None
    seed: int = 0
    device: str | torch.device | None = None
    progress: Report = unheard
    report: QuantizationErrorReport = field(default_factory=QuantizationErrorReport)
    used: bool = False

    @contextmanager
    def active(self) -> Iterator[CalibrationSource]:
        """Make this the source that `current_calibration` returns."""
        token = _CURRENT.set(self)
        try:
            yield self
        finally:
            _CURRENT.reset(token)

    @property
    def place(self) -> torch.device:
        """Where to compute."""
        return torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def is_readable(self) -> bool:
        """Whether every document can be made into token ids."""
        return self.encode is not None or (
            bool(self.documents) and not any(isinstance(document, str) for document in self.documents)
        )

    def check(self, graph: Graph) -> None:
        """Refuse settings that cannot work, before any text is read and even if no pass will calibrate.

        Raises:
            PassError: if there are no samples, or windows are longer than the model takes at once.
        """
        if self.length is not None:
            self._length(graph)
        if self.samples is not None and self.samples < 1:
            raise PassError(f"calibration with {self.samples} samples is none", hint="--calib-samples starts at 1")

    def windows(self, graph: Graph) -> Tensor:
        """The windows for a model, int32 `[samples, length]`: pieces of the texts that do not overlap.

        After them come those in which the virtual tokens of tasks stand before a text, if the model has any.

        Raises:
            PassError: if there is no tokenizer for a text, the texts are too short, a window is longer than the model
                takes at once, or a token id is not in its vocabulary.
        """
        texts = self._text_windows(graph)
        return torch.cat([texts, *_virtual_windows(graph, texts)])

    def at_most(self, samples: int, graph: Graph) -> CalibrationSource:
        """The same with no more windows of texts for a graph than that; see `windows` for errors."""
        return replace(self, samples=min(samples, len(self._text_windows(graph))))

    def quick(self, samples: int, length: int, graph: Graph) -> CalibrationSource:
        """The same with no more windows for a graph, nor longer ones, than that, from the beginning of each text.

        However long the texts are, it reads little of them. See `windows` for errors.
        """
        self.used = True
        some, short = min(samples, self.samples or samples), min(length, self._length(graph))
        beginnings = [document[: _CHARACTERS * some * short] for document in self.documents or default_texts()]
        return replace(self, documents=beginnings, samples=None, length=short).at_most(some, graph)

    def _text_windows(self, graph: Graph) -> Tensor:
        self.used = True
        self.check(graph)
        length = self._length(graph)
        ids = [token for document in self.documents or default_texts() for token in self._ids(document)]
        self._check_ids(ids, graph)
        count = len(ids) // length
        wanted = self.samples or min(SAMPLES, max(count, 1))
        if count < wanted:
            raise PassError(
                f"the calibration text has {len(ids)} tokens, which are too few: samples={wanted} of {length} take "
                f"{wanted * length}",
                hint="give a longer text (--calib), or fewer or shorter windows (--calib-samples, --calib-length)",
            )
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))[:wanted]
        return torch.tensor(ids[: count * length], dtype=torch.int32).view(count, length)[order.sort().values]

    def _ids(self, document: Document) -> Sequence[int]:
        if not isinstance(document, str):
            return document
        if self.encode is None:
            raise PassError(
                "the model has no tokenizer to read the calibration text with",
                hint='give token ids: a file .jsonl of lines such as {"token_ids": [1, 2, 3]}',
            )
        return self.encode(document)

    def _length(self, graph: Graph) -> int:
        limit = graph.dims[StepDim.LENGTH].max if StepDim.LENGTH in graph.dims else LENGTH
        length = min(LENGTH, limit) if self.length is None else self.length
        if not 2 <= length <= limit:
            raise PassError(
                f"calibration windows of {length} tokens do not fit the model, which takes 2 to {limit} at once",
                hint=self._fitting(graph, limit),
            )
        return length

    @staticmethod
    def _fitting(graph: Graph, limit: int) -> str:
        """What to do about windows that do not fit a model which takes `limit` tokens at once."""
        longest = graph.dims[StepDim.CAPACITY].max if StepDim.CAPACITY in graph.dims else limit
        more = "compile with a larger --max-input" if limit < longest else None
        fewer = f"use --calib-length {limit} or less, but at least 2" if limit >= 2 else None
        return ", or ".join(filter(None, [fewer, more])) or "compile for sequences of 2 tokens or more: --max-seq"

    def _check_ids(self, ids: Sequence[int], graph: Graph) -> None:
        vocabulary = graph.facts.get("vocab_size")
        if isinstance(vocabulary, int) and ids and max(ids) >= vocabulary:
            raise PassError(
                f"the calibration text has the token {max(ids)}, but the model knows {vocabulary} tokens",
                hint="its tokens are those of another model: give the text",
            )


def _virtual_windows(graph: Graph, texts: Tensor) -> Iterator[Tensor]:
    """Windows `[1, length]` that hold all virtual tokens of each task, with texts after them where there is room."""
    length = texts.shape[1]
    for number, task in enumerate(tasks_of(graph.facts)):
        for start in range(0, task.virtual_tokens, length):
            ids = task.ids[start : start + length]
            text = texts[number % len(texts), : length - len(ids)]
            yield torch.cat([torch.tensor(ids, dtype=texts.dtype), text])[None]


_CURRENT: ContextVar[CalibrationSource | None] = ContextVar("calibration", default=None)


def find_calibration() -> CalibrationSource | None:
    """The source of the pipeline that runs now, if there is one."""
    return _CURRENT.get()


def current_calibration() -> CalibrationSource:
    """The source of the pipeline that runs now.

    Raises:
        PassError: if there is none.
    """
    source = _CURRENT.get()
    if source is None:
        raise PassError(
            f"{what_runs()} needs data to calibrate with, and none is there",
            hint="llmc compile has some, and with --dry-run --dump-ir it shows about what the pass makes without any; "
            "in Python: with CalibrationSource(tokenizer.encode).active(): ...",
        )
    return source
