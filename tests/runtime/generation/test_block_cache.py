"""Block tables: nothing leaks, nobody writes to what others read, and what is shared is what it is taken for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from compiler.errors import RequestError
from runtime.engine_dir.manifest import EngineLimits, SpecialTokens
from runtime.generation.block_cache import BlockCache
from runtime.generation.groups import GroupMaker
from runtime.generation.sampling_params import SamplingParams
from runtime.generation.sequence import Sequence, SequenceGroup
from tests.runtime.engines import MANIFEST

LONGEST, SEQUENCES = 40, 4


def request(tokens: list[int], n: int = 1, new: int = 8) -> SequenceGroup:
    """A request for `n` samples."""
    manifest = replace(MANIFEST, limits=EngineLimits(SEQUENCES, LONGEST, LONGEST), tokens=SpecialTokens(()))
    maker = GroupMaker(manifest, None, lambda prompt, number: [*map(int, prompt)], lambda text: None)
    params = SamplingParams(n=n, max_new_tokens=new, temperature=1.0)
    return maker.make(0, tokens, params)


class Blocks(RuleBasedStateMachine):
    """Sequences over a cache, beside a pool that holds what has been computed: of each token the text up to it.

    The model of the pool says of each place of each block which text it stands for, so that a stale, a missing and an
    overwritten key all show.
    """

    @initialize(block=st.sampled_from([1, 2, 4, 7]), spare=st.integers(0, 12))
    def open(self, block: int, spare: int) -> None:
        self.block = block
        self.count = math.ceil(LONGEST / block) + spare
        self.cache = BlockCache(self.count, block, sequences=SEQUENCES, longest=LONGEST)
        self.pool: list[list[tuple[int, ...] | None]] = [[None] * block for _ in range(self.count)]
        self.groups: list[SequenceGroup] = []

    @property
    def sequences(self) -> list[Sequence]:
        return [sequence for group in self.groups for sequence in group.sequences]

    @property
    def computable(self) -> list[Sequence]:
        """The sequences that do not wait for what they share with the first of their request, and may grow."""
        return [
            one
            for one in self.sequences
            if (one is one.group.sequences[0] or one.cached) and (one.pending or len(one.tokens) < LONGEST)
        ]

    @rule(
        beginning=st.integers(0, 20),
        own=st.lists(st.integers(0, 2), min_size=1, max_size=8),
        n=st.integers(1, 4),
        left=st.integers(0, 3),
    )
    def enter(self, beginning: int, own: list[int], n: int, left: int) -> None:
        """A request comes, and takes its place if there is room; all but a few tokens of its prompt are computed."""
        group = request([*range(beginning), *own], n)
        if not self.cache.admits(group):
            return
        known = self.cache.shared_length(group.sequences[0].tokens)
        self.cache.take(group, share=True)
        first = group.sequences[0]
        assert first.cached == known < len(first.tokens) <= first.room
        self.groups.append(group)
        if first.pending > left:
            self._compute(first, first.pending - left)

    @precondition(lambda self: self.computable)
    @rule(data=st.data(), token=st.integers(0, 2), most=st.integers(1, 20))
    def compute(self, data: st.DataObject, token: int, most: int) -> None:
        """Tokens of a sequence are computed; if all have been, it gets its next one first."""
        sequence = data.draw(st.sampled_from(self.computable))
        if not sequence.pending:
            sequence.tokens.append(token)
        self._compute(sequence, min(most, sequence.pending))

    def _compute(self, sequence: Sequence, count: int) -> None:
        """Write tokens to the blocks of a sequence, which nobody else may have, if there is room.

        Others that are the same as a sequence through which all tokens have gone begin with it.
        """
        if len(sequence.tokens) > sequence.room and not self.cache.reserve(sequence):
            return
        self._copy()
        for place in range(sequence.cached, sequence.cached + count):
            block = self.cache.table(sequence)[place // self.block]
            assert self.cache.users(block) == 1
            self.pool[block][place % self.block] = tuple(sequence.tokens[: place + 1])
        self.cache.filled(sequence, count)
        same = [one for one in sequence.group.sequences if not one.cached and one.tokens == sequence.tokens]
        if same and not sequence.pending:
            self.cache.share(sequence, same, sequence.cached)

    @precondition(lambda self: self.groups)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        """The other sequences of a request begin with what there is of the first, or with a part of it."""
        group = data.draw(st.sampled_from(self.groups))
        first, *others = group.sequences
        behind = [other for other in others if not other.cached]
        shared = min(first.cached, group.common)
        if behind and shared:
            self.cache.share(first, behind, data.draw(st.integers(max(1, shared - 4), shared)))

    @precondition(lambda self: self.groups)
    @rule(data=st.data())
    def reorder(self, data: st.DataObject) -> None:
        """Each sequence of a beam search goes on from any other."""
        group = data.draw(st.sampled_from(self.groups))
        members = group.sequences
        if len(members) < 2 or any(one.pending or one.cached != members[0].cached for one in members):
            return
        before, free = [[*one.tokens] for one in members], self.cache.free
        sources = data.draw(st.lists(st.integers(0, len(members) - 1), min_size=len(members), max_size=len(members)))
        self.cache.reorder(members, sources)
        assert self.cache.free >= free
        for one, source in zip(members, sources, strict=True):
            one.tokens[:] = before[source]

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A sequence ends."""
        sequence = data.draw(st.sampled_from(self.sequences))
        self.cache.release(sequence)
        sequence.group.sequences.remove(sequence)
        self.groups = [group for group in self.groups if group.sequences]

    @precondition(lambda self: self.groups)
    @rule(data=st.data())
    def suspend(self, data: st.DataObject) -> None:
        """A request gives up its places, and asks for new ones."""
        group = data.draw(st.sampled_from(self.groups))
        for sequence in group.sequences:
            self.cache.release(sequence)
        self.groups.remove(group)
        if self.cache.admits(group):
            self.cache.take(group, share=True)
            self.groups.append(group)

    @rule(dice=st.integers(0, 9))
    def fail(self, dice: int) -> None:
        """A step failed, which is rare: nothing is known of what the pools hold."""
        if dice < 9:
            return
        for sequence in self.sequences:
            self.cache.release(sequence)
        self.groups = []
        self.cache.forget()
        self.pool = [[None] * self.block for _ in self.pool]
        assert self.cache.shared_length([*range(20)]) == 0

    def _copy(self) -> None:
        sources, destinations = self.cache.copies.take()
        assert len({*destinations}) == len(destinations)
        copied = [[*self.pool[source]] for source in sources]
        for destination, values in zip(destinations, copied, strict=True):
            self.pool[destination] = values

    @invariant()
    def nothing_leaks(self) -> None:
        """Every block is free, or in as many tables as it has users."""
        if not hasattr(self, "cache"):
            return
        tables = [self.cache.table(sequence) for sequence in self.sequences]
        held = [block for table in tables for block in table]
        assert all(len({*table}) == len(table) for table in tables)
        assert [self.cache.users(block) for block in range(self.count)] == [held.count(n) for n in range(self.count)]
        assert self.cache.free == self.count - len({*held})
        for sequence, table in zip(self.sequences, tables, strict=True):
            row = self.cache.tables[self.cache.slot(sequence)].tolist()
            assert row == [*table, *[-1] * (len(row) - len(table))]

    @invariant()
    def every_sequence_reads_its_own_text(self) -> None:
        """What a sequence's blocks hold, once the copies are made, is what its tokens say."""
        if not hasattr(self, "cache"):
            return
        pending = self.cache.copies._sources
        for sequence in self.sequences:
            table = self.cache.table(sequence)
            for place in range(sequence.cached):
                block = table[place // self.block]
                held = self.pool[pending.get(block, block)][place % self.block]
                assert held == tuple(sequence.tokens[: place + 1])


TestBlocks = Blocks.TestCase
TestBlocks.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


def computed(cache: BlockCache, group: SequenceGroup) -> SequenceGroup:
    """Give a request of one sequence its blocks, and take its tokens for computed."""
    assert cache.admits(group)
    cache.take(group, share=True)
    cache.filled(group.sequences[0], group.sequences[0].pending)
    return group


def test_whole_blocks_are_found_until_they_are_needed_the_least_recently_used_first() -> None:
    cache = BlockCache(6, 2, sequences=4, longest=12)
    first, second = computed(cache, request([1, 2, 3, 4, 5])), computed(cache, request([7, 8, 9, 10, 11]))
    assert cache.free == 0
    assert [cache.shared_length(tokens) for tokens in ([1, 2, 3, 4, 9], [1, 2, 3, 4], [1, 2, 9], [2, 1])] == [
        4,
        2,
        2,
        0,
    ]
    for group in (first, second):
        cache.release(group.sequences[0])
    assert cache.free == 6
    again = computed(cache, request([1, 2, 3, 4, 6]))  # uses the blocks of the first
    cache.release(again.sequences[0])
    third = computed(cache, request([20, 21, 22, 23, 24, 25, 26]))
    # Two blocks were of no use, as they are not whole; then the end of the second text goes before its beginning.
    assert [cache.shared_length(tokens) for tokens in ([7, 8, 9, 10, 0], [1, 2, 3, 4, 0])] == [0, 4]
    cache.release(third.sequences[0])
    assert cache.free == 6


def test_equal_tokens_after_another_text_are_not_shared() -> None:
    cache = BlockCache(8, 2, sequences=2, longest=12)
    computed(cache, request([1, 2, 5, 6, 7]))
    assert cache.shared_length([3, 4, 5, 6, 7]) == 0
    assert cache.shared_length([1, 2, 5, 6, 7]) == 4


def test_texts_whose_hashes_collide_are_told_apart() -> None:
    """-1 and -2 have the same hash in CPython."""
    assert hash((0, (-1, 3))) == hash((0, (-2, 3)))
    cache = BlockCache(8, 2, sequences=2, longest=12)
    computed(cache, request([0, 3, 5]))
    key = next(iter(cache._found))
    cache._found = {(key[0], (-1, 3)): cache._found[key]}
    assert cache.shared_length([-2, 3, 5]) == 0 and cache.shared_length([-1, 3, 5]) == 2


def test_samples_share_whole_blocks_and_copy_the_last_one_only() -> None:
    cache = BlockCache(12, 4, sequences=4, longest=24)
    group = request(list(range(10)), n=3)
    cache.take(group, share=True)
    first, *others = group.sequences
    cache.filled(first, 10)
    cache.share(first, others, 10)
    assert cache.free == 12 - 3 and cache.copies.take().sources == []
    for sequence in group.sequences:
        sequence.tokens.append(sequence.number)
        assert cache.reserve(sequence)
    assert cache.free == 12 - 5
    sources, destinations = cache.copies.take()
    assert len({*sources}) == 1 and len(destinations) == 2
    assert [cache.table(one)[:2] for one in group.sequences] == [cache.table(first)[:2]] * 3


def test_a_request_that_can_never_fit_is_refused() -> None:
    cache = BlockCache(4, 4, sequences=4, longest=40)
    cache.check(request([1] * 8, new=8))
    with pytest.raises(RequestError) as caught:
        cache.check(request([1] * 8, n=3, new=8))
    assert "prompt 1 has 8 tokens and asks for up to 8 new ones for each of 3 sequences" in str(caught.value)
    assert "takes 40 tokens of the caches; they hold 16" in str(caught.value)
    assert "--cache-tokens 40" in (caught.value.hint or "")


def test_a_block_that_is_written_to_again_is_found_no_more() -> None:
    """A sequence may begin with a part of a whole block, and have the block for itself later."""
    cache = BlockCache(12, 4, sequences=4, longest=24)
    group = request(list(range(10)), n=2)
    cache.take(group, share=True)
    first, other = group.sequences
    cache.filled(first, 10)
    other.tokens[5:] = [50, 51]
    cache.share(first, [other], 5)
    cache.release(first)
    assert cache.shared_length(list(range(10))) == 8
    assert cache.reserve(other)
    assert cache.copies.take().sources == [] and cache.shared_length(list(range(10))) == 4
    cache.filled(other, 2)
    assert cache.shared_length([0, 1, 2, 3, 4, 50, 51, 52, 53]) == 4  # the block is not whole


def test_beams_change_places_by_sharing_blocks_and_part_in_the_last_one() -> None:
    cache = BlockCache(12, 4, sequences=4, longest=24)
    group = request(list(range(6)), n=3)
    cache.take(group, share=True)
    cache.filled(group.sequences[0], 6)
    cache.share(group.sequences[0], group.sequences[1:], 6)
    for beam in group.sequences:
        beam.tokens.append(beam.number)
        assert cache.reserve(beam)
        cache.filled(beam, 1)
    cache.copies.take()
    ends = [cache.table(beam)[1] for beam in group.sequences]
    cache.reorder(group.sequences, [2, 2, 0])
    for beam, token in zip(group.sequences, (2, 2, 0), strict=True):
        beam.tokens[6:] = [token, 9]
    assert [cache.table(beam)[1] for beam in group.sequences] == [ends[2], ends[2], ends[0]]
    assert cache.users(ends[1]) == 0 and cache.copies.take().sources == []
    for beam in group.sequences:
        assert beam.room < len(beam.tokens) and cache.reserve(beam)
    sources, destinations = cache.copies.take()
    assert sources == [ends[2]] and cache.table(group.sequences[0])[1] == destinations[0]
    assert len({cache.table(beam)[1] for beam in group.sequences}) == 3
    for beam in group.sequences:
        cache.release(beam)
    assert cache.free == 12
