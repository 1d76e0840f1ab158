"""Which blocks of paged caches hold what: block tables, reference counts, and beginnings that sequences share.

A block belongs to as many sequences as have it in their tables. One that no table has is free. A whole block whose
tokens have been computed can be found by them and by what comes before it; it can so be shared also after it has become
free, until it is needed for something else, the least recently used first. Before a sequence writes to a block that
others have, too, it gets a copy of its own (copy on write).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as ListOf
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from compiler.errors import RequestError
from compiler.ir.paged_layout import NO_BLOCK
from runtime.generation.cache import PendingCopies
from runtime.generation.sequence import Sequence, SequenceGroup

_BEGINNING = 0
"""What stands for the text before the first block."""

Key = tuple[int, tuple[int, ...]]
"""What a whole block holds: the number of the text before it, and its tokens. It is compared as a whole wherever it is
looked up, so that no collision of hashes can give a sequence the keys and values of another text."""


@dataclass(slots=True)
class BlockTable:
    """The blocks of one sequence.

    Attributes:
        slot: which row of `BlockCache.tables` it is.
        blocks: the blocks, in order.
        texts: for each of its whole blocks that have been computed, the number of the text up to the block's end.
    """

    slot: int
    blocks: list[int] = field(default_factory=list)
    texts: list[int] = field(default_factory=list)


class BlockCache:
    """The blocks of a paged session. See `runtime.generation.cache.SequenceCache`.

    What it does for a step grows with the blocks that the step's tokens begin, not with those that there are.

    Args:
        blocks: how many blocks there are.
        block: how many tokens a block holds.
        sequences: how many sequences there can be at once.
        longest: how many tokens a sequence may have.

    Attributes:
        block: how many tokens a block holds.
        size: how many blocks there are.
        tables: the block tables as packed steps take them, `i32[sequences, blocks]`; `slot` says whose a row is.
        copies: blocks to be copied before the next step.
    """

    def __init__(self, blocks: int, block: int, *, sequences: int, longest: int) -> None:
        self.block, self.size = block, blocks
        self.copies = PendingCopies()
        self.tables: npt.NDArray[np.int32] = np.full((sequences, -(-longest // block)), NO_BLOCK, dtype=np.int32)
        self._by_sequence: dict[Sequence, BlockTable] = {}
        self._slots = list(reversed(range(sequences)))
        # Each row of tables prefers blocks of its own, in their order: what lies together is read faster.
        self._apart = max(1, blocks // sequences)
        self._users = [0] * blocks
        self._unused = dict.fromkeys(range(blocks))  # free, and nobody knows what they hold
        self._reusable: OrderedDict[int, None] = OrderedDict()  # free, the least recently used first
        self._found: dict[Key, int] = {}
        self._keys: dict[int, tuple[Key, int]] = {}  # of blocks: what they hold, and the number of the text
        self._texts = _BEGINNING

    @property
    def free(self) -> int:
        """How many blocks no sequence has."""
        return len(self._unused) + len(self._reusable)

    def slot(self, sequence: Sequence) -> int:
        """The row of `tables` that is a sequence's."""
        return self._by_sequence[sequence].slot

    def table(self, sequence: Sequence) -> ListOf[int]:
        """The blocks of a sequence, in order."""
        return self._by_sequence[sequence].blocks

    def users(self, block: int) -> int:
        """How many sequences have a block in their tables."""
        return self._users[block]

    def check(self, group: SequenceGroup) -> None:
        """See `SequenceCache.check`: all sequences of a request must fit, as long as they may become."""
        prompt, new = len(group.sequences[0].tokens), group.context.max_new_tokens
        common = (prompt - 1) // self.block
        needed = common + group.width * (self._for(prompt + new) - common)
        if needed > self.size:
            each = f" for each of {group.width} sequences" if group.width > 1 else ""
            raise RequestError(
                f"prompt {group.number + 1} has {prompt} tokens and asks for up to {new} new ones{each}, which takes "
                f"{needed * self.block} tokens of the caches; they hold {self.size * self.block}",
                hint="ask for fewer new tokens, or load the engine with larger caches, if there is memory for them: "
                f"--cache-tokens {needed * self.block} (cache_tokens={needed * self.block})",
            )

    def shared_length(self, tokens: ListOf[int]) -> int:
        """See `SequenceCache.shared_length`: whole blocks."""
        return self.block * sum(1 for _ in self._shared(tokens))

    def shareable(self, common: int) -> int:
        """See `SequenceCache.shareable`: whole blocks."""
        return common - common % self.block

    def admits(self, group: SequenceGroup, without: ListOf[Sequence] = ()) -> bool:
        """See `SequenceCache.admits`: there must be room for a token more than each sequence has."""
        if len(self._slots) + len(without) < len(group.sequences):
            return False
        first, *others = group.sequences
        needed = self._for(len(first.tokens) + 1)
        if others:
            common = (group.common - 1) // self.block
            needed += sum(self._for(len(other.tokens) + 1) - common for other in others)
        if needed <= self.free:
            return True
        lost = Counter(block for sequence in without for block in self._by_sequence[sequence].blocks)
        room = self.free + sum(1 for block, count in lost.items() if count == self._users[block])
        if not group.wants_prompt_logits:
            needed -= sum(1 for block in self._shared(first.tokens) if self._users[block] > lost[block])
        return needed <= room

    def take(self, group: SequenceGroup, *, share: bool) -> None:
        """See `SequenceCache.take`."""
        for sequence in group.sequences:
            self._by_sequence[sequence] = BlockTable(self._slots.pop())
        first = group.sequences[0]
        if share:
            table = self._by_sequence[first]
            for block in self._shared(first.tokens):
                self._use(block)
                table.blocks.append(block)
                table.texts.append(self._keys[block][1])
            first.cached = first.room = len(table.blocks) * self.block
            self._show(table)
        self.reserve(first)

    def reserve(self, sequence: Sequence, more: int = 0) -> bool:
        """See `SequenceCache.reserve`: new blocks, and a copy of the one that is written next if others have it."""
        table = self._by_sequence[sequence]
        blocks, at = table.blocks, sequence.cached // self.block
        before, needed = len(blocks), self._for(len(sequence.tokens) + more)
        written = blocks[at] if at < before else None
        shared = written is not None and self._users[written] > 1
        if needed - before + shared > self.free:
            return False
        if written is not None and shared:
            blocks[at] = self._allocate(table.slot, at)
            self.tables[table.slot, at] = blocks[at]
            self.copies.add(written, blocks[at])
            self._users[written] -= 1
        elif written is not None:
            self._forget(written)
        for place in range(before, needed):
            blocks.append(self._allocate(table.slot, place))
        self.tables[table.slot, before : len(blocks)] = blocks[before:]
        sequence.room = len(blocks) * self.block
        return True

    def share(self, first: Sequence, others: ListOf[Sequence], length: int) -> None:
        """See `SequenceCache.share`: nothing is copied until one of them writes to a block that is not whole."""
        source = self._by_sequence[first]
        blocks, texts = source.blocks[: self._for(length)], source.texts[: length // self.block]
        for other in others:
            table = self._by_sequence[other]
            for block in blocks:
                self._use(block)
            table.blocks, table.texts = [*blocks], [*texts]
            self._show(table)
            other.cached = other.room = length
        first.room = first.cached  # what it writes to next may not be its own any more

    def reorder(self, sequences: ListOf[Sequence], sources: ListOf[int]) -> None:
        """See `SequenceCache.reorder`: they share the blocks of their sources, as in `share`."""
        tables = [self._by_sequence[sequence] for sequence in sequences]
        new = [([*tables[source].blocks], [*tables[source].texts]) for source in sources]
        for blocks, _ in new:
            for block in blocks:
                self._use(block)
        for sequence, table, (blocks, texts) in zip(sequences, tables, new, strict=True):
            self._drop(table)
            table.blocks, table.texts = blocks, texts
            self._show(table)
            sequence.room = sequence.cached

    def filled(self, sequence: Sequence, count: int) -> None:
        """See `SequenceCache.filled`: blocks that have become whole can be found from now on."""
        sequence.cached += count
        texts = self._by_sequence[sequence].texts
        while (len(texts) + 1) * self.block <= sequence.cached:
            at = len(texts)
            key = (texts[-1] if texts else _BEGINNING, self._tokens(sequence.tokens, at))
            block = self._found.get(key)
            if block is None:
                self._texts += 1
                block = self._by_sequence[sequence].blocks[at]
                self._found[key], self._keys[block] = block, (key, self._texts)
            texts.append(self._keys[block][1])

    def filled_each(self, sequences: Iterable[Sequence]) -> None:
        """See `SequenceCache.filled_each`."""
        block = self.block
        for sequence in sequences:
            if (sequence.cached + 1) % block:
                sequence.cached += 1
            else:
                self.filled(sequence, 1)

    def release(self, sequence: Sequence) -> None:
        """See `SequenceCache.release`."""
        table = self._by_sequence.pop(sequence)
        self._drop(table)
        self.tables[table.slot] = NO_BLOCK
        self._slots.append(table.slot)
        sequence.room = sequence.cached = 0

    def forget(self) -> None:
        """See `SequenceCache.forget`."""
        self._found.clear()
        self._keys.clear()
        self._unused.update(self._reusable)
        self._reusable.clear()
        self.copies.take()

    def _for(self, tokens: int) -> int:
        """How many blocks hold so many tokens of a sequence."""
        return -(-tokens // self.block)

    def _tokens(self, tokens: ListOf[int], at: int) -> tuple[int, ...]:
        return tuple(tokens[at * self.block : (at + 1) * self.block])

    def _shared(self, tokens: ListOf[int]) -> Iterator[int]:
        """The blocks that hold the beginning of a text, but not all of it."""
        text = _BEGINNING
        for at in range((len(tokens) - 1) // self.block):
            block = self._found.get((text, self._tokens(tokens, at)))
            if block is None:
                return
            yield block
            text = self._keys[block][1]

    def _use(self, block: int) -> None:
        """Count one more sequence that has a block."""
        if not self._users[block]:
            del self._reusable[block]
        self._users[block] += 1

    def _drop(self, table: BlockTable) -> None:
        """Count a sequence less for the blocks of a table. The first ones, which most texts share, are kept longest."""
        for block in reversed(table.blocks):
            self._users[block] -= 1
            if not self._users[block]:
                free = self._reusable if block in self._keys else self._unused
                free[block] = None

    def _allocate(self, slot: int, place: int) -> int:
        """A free block: the one that a row of tables prefers for a place, one of no use, or the least recently used."""
        block = slot * self._apart + place
        if block in self._unused:
            del self._unused[block]
        elif self._unused:
            block, _ = self._unused.popitem()
        else:
            block, _ = self._reusable.popitem(last=False)
            self._forget(block)
        self._users[block] = 1
        return block

    def _forget(self, block: int) -> None:
        """A block will hold something else than it can be found by."""
        known = self._keys.pop(block, None)
        if known is not None:
            del self._found[known[0]]

    def _show(self, table: BlockTable) -> None:
        """Write a table that has changed from its beginning to `tables`."""
        row = self.tables[table.slot]
        row[: len(table.blocks)] = table.blocks
        row[len(table.blocks) :] = NO_BLOCK
