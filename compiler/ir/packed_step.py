"""A packed step of a model: the new tokens of several sequences one after the other, without padding.

This module alone spells the names of the inputs of a packed step. The caches are pools of blocks; see
`compiler.ir.paged_layout`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from compiler.errors import RequestError
from compiler.ir.dtypes import DType
from compiler.ir.paged_layout import NO_BLOCK
from compiler.ir.step import LOGIT_POS, TOKEN_IDS, B, M, R, T
from compiler.ir.types import TensorType

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    Ints = npt.NDArray[np.int32]


class SequenceStep(NamedTuple):
    """What a step does with one sequence.

    Attributes:
        past: how many of its tokens are in the caches already.
        tokens: the ids of its next tokens, one or more.
        blocks: the blocks of the pools that hold it, in order: enough for all of its tokens, the new ones too.
        wanted: the positions within `tokens` whose logits are wanted; the last one if None.
    """

    past: int
    tokens: Sequence[int]
    blocks: Sequence[int]
    wanted: Sequence[int] | None = None


class Span(NamedTuple):
    """The tokens of one sequence in a packed step.

    Attributes:
        row: the row of the block tables that is the sequence's.
        start: its first token in the step.
        stop: the token after its last.
        past: how many of its tokens are in the caches already.
    """

    row: int
    start: int
    stop: int
    past: int

    @property
    def new(self) -> int:
        """How many tokens the step adds to the sequence."""
        return self.stop - self.start

    @property
    def length(self) -> int:
        """How many tokens the sequence has after the step."""
        return self.past + self.new


class Spans(NamedTuple):
    """The tokens of all sequences in a packed step, `i32` arrays with a number for each; see `Span`.

    Attributes:
        rows: the row of the block tables that is each sequence's.
        starts: its first token in the step.
        counts: how many tokens it gets.
        pasts: how many of its tokens are in the caches already.
    """

    rows: Ints
    starts: Ints
    counts: Ints
    pasts: Ints

    def of(self, which: npt.NDArray[np.bool_]) -> Spans:
        """Those of some sequences."""
        return Spans(*(each[which] for each in self))


class PackedStep(NamedTuple):
    """The arguments of a packed step. The tensors are int32, on the CPU, and in the order in which ranks send them.

    The tokens of a sequence lie one after the other, and sequences in the order of their rows.

    Attributes:
        token_ids: `[T]`, the new tokens.
        token_positions: `[T]`, the place of each token in its sequence.
        token_rows: `[T]`, the row of `block_tables` that is its sequence's.
        block_tables: `[B, M]`, the blocks of each sequence, in order; then -1.
        logit_pos: `[R]`, the tokens whose logits are wanted, by their places in the step.
    """

    token_ids: Tensor
    token_positions: Tensor
    token_rows: Tensor
    block_tables: Tensor
    logit_pos: Tensor

    @classmethod
    def of(cls, sequences: Sequence[SequenceStep]) -> PackedStep:
        """The step that does this with sequences, one row of the block tables each.

        The logits come in the order of the sequences, and of each in the order of `wanted`.
        """
        import torch

        counts = torch.tensor([len(each.tokens) for each in sequences], dtype=torch.int32)
        starts = counts.cumsum(0, dtype=torch.int32) - counts
        past = torch.tensor([each.past for each in sequences], dtype=torch.int32)
        repeated = counts.long()
        first = (past - starts).repeat_interleave(repeated)
        width = max(1, *(len(each.blocks) for each in sequences))
        tables = [[*each.blocks, *[NO_BLOCK] * (width - len(each.blocks))] for each in sequences]
        wanted = [
            start + position
            for start, each in zip(starts.tolist(), sequences, strict=True)
            for position in ([len(each.tokens) - 1] if each.wanted is None else each.wanted)
        ]
        return cls(
            torch.tensor([token for each in sequences for token in each.tokens], dtype=torch.int32),
            torch.arange(len(first), dtype=torch.int32) + first,
            torch.arange(len(sequences), dtype=torch.int32).repeat_interleave(repeated),
            torch.tensor(tables, dtype=torch.int32),
            torch.tensor(wanted, dtype=torch.int32),
        )

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return self.token_ids.shape[0]

    @property
    def wanted(self) -> int:
        """How many logits are wanted."""
        return self.logit_pos.shape[0]

    def spans(self) -> list[Span]:
        """The tokens of each sequence that has some, in order."""
        arrays = self.span_arrays()
        stops = arrays.starts + arrays.counts
        columns = (arrays.rows, arrays.starts, stops, arrays.pasts)
        return [Span(*numbers) for numbers in zip(*(column.tolist() for column in columns), strict=True)]

    def span_arrays(self) -> Spans:
        """The same as arrays."""
        import numpy as np

        rows = self.token_rows.numpy()
        begins = np.ones(len(rows), dtype=bool)
        begins[1:] = rows[1:] != rows[:-1]
        starts = begins.nonzero()[0].astype(np.int32)
        counts = np.diff(starts, append=np.int32(len(rows))).astype(np.int32, copy=False)
        return Spans(rows[starts], starts, counts, self.token_positions.numpy()[starts])

    @property
    def decodes(self) -> bool:
        """Whether every token is the only one of its sequence, in the order of the rows."""
        rows = self.token_rows.numpy()
        return bool((rows[1:] > rows[:-1]).all())

    def check(self, block: int, blocks: int) -> None:
        """See that the step can run over pools of `blocks` blocks of `block` tokens.

        Raises:
            RequestError: saying what is wrong.
        """
        if self._is_sound(block, blocks):
            return
        if not self.tokens or not len(self.token_positions) == len(self.token_rows) == self.tokens:
            raise RequestError(
                f"a packed step has {self.tokens} tokens, {len(self.token_positions)} positions and "
                f"{len(self.token_rows)} rows of block tables",
                hint="give one token or more, and a position and a row for each: PackedStep.of makes a step",
            )
        spans = self.spans()
        rows = [span.row for span in spans]
        if rows != sorted({*rows}) or self._is_scattered(spans):
            raise RequestError(
                "the tokens of a sequence do not follow each other in a packed step", hint="PackedStep.of makes a step"
            )
        if rows[0] < 0 or rows[-1] >= len(self.block_tables):
            raise RequestError(f"tokens are in rows {rows[0]} to {rows[-1]} of {len(self.block_tables)} block tables")
        wanted = self.logit_pos.tolist()
        if wanted and not 0 <= min(wanted) <= max(wanted) < self.tokens:
            raise RequestError(f"the logits of a token are wanted that is none of the {self.tokens} of the step")
        self._check_tables(spans, block, blocks)

    def _is_sound(self, block: int, blocks: int) -> bool:
        """Whether nothing is wrong: the same as `check`, at once for all sequences. What it is not sure of is False."""
        import numpy as np

        if not self.tokens or not len(self.token_positions) == len(self.token_rows) == self.tokens:
            return False
        positions, rows, tables, wanted = (
            field.numpy() for field in (self.token_positions, self.token_rows, self.block_tables, self.logit_pos)
        )
        if rows[0] < 0 or rows[-1] >= len(tables) or positions.min() < 0 or positions.max() >= tables.shape[1] * block:
            return False
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.tokens:
            return False
        following = rows[1:] == rows[:-1]
        if not ((rows[1:] >= rows[:-1]).all() and (positions[1:] == positions[:-1] + 1)[following].all()):
            return False
        several = following.any()
        spans = (
            self.span_arrays()
            if several
            else Spans(rows, np.arange(len(rows), dtype=np.int32), np.ones_like(rows), positions)
        )
        lasts = (spans.pasts + spans.counts - 1) // block
        held = tables[spans.rows, : int(lasts.max()) + 1]
        places = np.arange(held.shape[1], dtype=np.int32)
        needed = places <= lasts[:, None]
        if not ((held >= 0) & (held < blocks) | ~needed).all():
            return False
        if several:
            written = held[needed & (places >= spans.pasts[:, None] // block)]
            pairs = np.sort((held + np.arange(len(held), dtype=np.int64)[:, None] * blocks)[needed])
            alone = not (pairs[1:] == pairs[:-1]).any()
        else:
            written = held[np.arange(len(held)), lasts]
            alone = bool((((held == written[:, None]) & needed).sum(1) == 1).all())
        written = np.sort(written)
        return alone and not (written[1:] == written[:-1]).any()

    def _is_scattered(self, spans: Sequence[Span]) -> bool:
        """Whether the tokens of a span are not those of one row, or do not follow each other."""
        if self.tokens == len(spans):
            return False
        rows, positions = self.token_rows.tolist(), self.token_positions.tolist()
        return any(
            rows[start:stop] != [row] * (stop - start)
            or positions[start:stop] != list(range(past, past + stop - start))
            for row, start, stop, past in spans
        )

    def table(self, span: Span, block: int) -> list[int]:
        """The blocks of `block` tokens that a sequence is in after the step, as far as its table has them."""
        table: list[int] = self.block_tables.numpy()[span.row, : -(-span.length // block)].tolist()
        return table

    def _check_tables(self, spans: Sequence[Span], block: int, blocks: int) -> None:
        """RequestError if a sequence needs a block that is not there, or that another one writes to, too."""
        writers: dict[int, int] = {}
        for span in spans:
            needed = -(-span.length // block)
            table = self.table(span, block)
            if span.past < 0 or len(table) < needed or NO_BLOCK in table:
                held = sum(entry != NO_BLOCK for entry in table)
                raise RequestError(
                    f"sequence {span.row} grows from {span.past} to {span.length} tokens; it has {held} blocks, which "
                    f"hold {held * block}",
                    hint="give it more blocks",
                )
            if not 0 <= min(table) <= max(table) < blocks:
                wrong = next(entry for entry in table if not 0 <= entry < blocks)
                raise RequestError(f"sequence {span.row} is in block {wrong}; the blocks are 0 to {blocks - 1}")
            for entry in table[span.past // block :]:
                if writers.setdefault(entry, span.row) != span.row or table.count(entry) > 1:
                    raise RequestError(
                        f"two places of sequences {writers[entry]} and {span.row} would be written to block {entry}",
                        hint="copy a shared block before a sequence goes on in it",
                    )

    def part(self, start: int, stop: int) -> tuple[PackedStep, Tensor]:
        """The step over some consecutive tokens, after the steps over all tokens before.

        Returns:
            The step, and which of the wanted logits, `i64`, are among its tokens: its own are in that order. If there
            are none, it wants one that nobody asked for.
        """
        asked = ((self.logit_pos >= start) & (self.logit_pos < stop)).nonzero().flatten()
        wanted = self.logit_pos[asked] - start if len(asked) else self.logit_pos.new_zeros(1)
        ids, positions, rows = (
            tensor[start:stop] for tensor in (self.token_ids, self.token_positions, self.token_rows)
        )
        return PackedStep(ids, positions, rows, self.block_tables, wanted), asked

    def packed(self) -> list[Sequence[int] | Ints]:
        """The step as 32-bit integers, in parts to be sent one after the other: its sizes, then its tensors."""
        sizes = (self.tokens, *self.block_tables.shape, self.wanted)
        return [sizes, *(tensor.reshape(-1).numpy() for tensor in self)]

    @classmethod
    def unpacked(cls, numbers: Ints) -> PackedStep:
        """Inverse of `packed`, given its parts joined. The tensors are copies."""
        import torch

        tokens, rows, width, wanted = map(int, numbers[:4])
        sizes = [tokens, tokens, tokens, rows * width, wanted]
        ids, positions, owners, tables, logits = torch.from_numpy(numbers[4:].copy()).split(sizes)
        return cls(ids, positions, owners, tables.view(rows, width), logits)


_, TOKEN_POSITIONS, TOKEN_ROWS, BLOCK_TABLES, _ = PackedStep._fields

PACKED_INPUTS: Mapping[str, TensorType] = {
    TOKEN_IDS: TensorType(DType.i32, (T,)),
    TOKEN_POSITIONS: TensorType(DType.i32, (T,)),
    TOKEN_ROWS: TensorType(DType.i32, (T,)),
    BLOCK_TABLES: TensorType(DType.i32, (B, M)),
    LOGIT_POS: TensorType(DType.i32, (R,)),
}
"""The inputs of a graph of packed steps that are no caches, in the order of `PackedStep`; it may do without some."""
