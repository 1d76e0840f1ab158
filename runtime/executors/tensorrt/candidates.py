"""Which plan runs what: the profiles of all plans are candidates for steps of certain sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from compiler.errors import EngineError, RequestError
from runtime.executors.tensorrt.plan import Plan
from runtime.executors.tensorrt.prefill_chunks import PrefillChunk, cheapest_chunks
from runtime.executors.tensorrt.signature import AGAIN, Signature

_SMALLER = "ask for less at a time: what an engine takes follows from --max-batch, --max-input and --max-seq of compile"


@dataclass(frozen=True)
class CacheSize:
    """How many sequences the caches of a session hold, and how many tokens of each."""

    rows: int
    capacity: int


@dataclass(frozen=True, eq=False)
class Candidate:
    """A profile of a plan."""

    plan: Plan
    profile: int

    @property
    def capacity(self) -> int:
        """The tokens that a row of its caches holds."""
        return self.plan.signature.capacity

    @property
    def rows(self) -> tuple[int, int]:
        """The fewest and the most rows."""
        return self.plan.signature.profiles[self.profile].rows

    @property
    def width(self) -> tuple[int, int]:
        """The fewest and the most tokens per row."""
        return self.plan.signature.profiles[self.profile].width

    @property
    def logits(self) -> tuple[int, int]:
        """The fewest and the most wanted positions per row."""
        return self.plan.signature.profiles[self.profile].logits

    def takes(self, rows: int, width: int, logits: int) -> bool:
        """Whether it runs steps of so many rows, tokens per row, and wanted positions per row."""
        signature = self.plan.signature
        return signature.profiles[self.profile].takes(signature.input_shapes(rows, width, logits))


class Candidates:
    """What the plans of an engine run together. All of them work on the same caches.

    Attributes:
        signature: that of one of the plans: caches, activations and logits are alike in all, but for the sizes.
    """

    def __init__(self, plans: Sequence[Plan]) -> None:
        """Look through the plans; EngineError if there is none, or one is of another model."""
        self._candidates = [Candidate(plan, index) for plan in plans for index in range(len(plan.signature.profiles))]
        if not plans:
            raise EngineError("the engine has no plans", hint=AGAIN)
        self.signature = plans[0].signature
        for plan in plans:
            if _model(plan.signature) != _model(self.signature):
                raise EngineError(
                    f"the plans {plans[0].name} and {plan.name} differ in their caches, activations or logits",
                    hint=AGAIN,
                )

    def size(self, batch: int, longest: int) -> CacheSize:
        """The smallest caches for `batch` rows of `longest` tokens: with a plan for one token a row of all rows.

        Raises:
            RequestError: naming the limits, if no plan takes so much.
        """
        sizes = [(size.capacity, size.rows) for size in self._decode_sizes(batch) if size.capacity >= longest]
        if not sizes:
            raise RequestError(
                f"{batch} sequences of {longest} tokens were asked for; the engine is built for {self._limits()}",
                hint=_SMALLER,
            )
        capacity, rows = min(sizes)
        return CacheSize(rows, capacity)

    def sizes(self, batch: int, longest: int) -> list[CacheSize]:
        """The caches of `batch` rows on their way from the smallest to those for `longest` tokens; raises as `size`."""
        last = self.size(batch, longest).capacity
        capacities = {size.capacity for size in self._decode_sizes(batch) if size.capacity <= last}
        return [self.size(batch, capacity) for capacity in sorted(capacities)]

    def decode(self, size: CacheSize) -> Candidate:
        """What runs one token a row of all rows; RequestError if nothing does."""
        for candidate in self._candidates:
            if candidate.capacity == size.capacity and candidate.takes(size.rows, 1, 1):
                return candidate
        raise self._refusal(f"one token of each of {size.rows} rows", size)

    def prefill(self, size: CacheSize) -> list[Candidate]:
        """What runs several tokens of one row, or else one; RequestError if no plan runs a row alone."""
        alone = self._alone(size)
        if not alone:
            raise self._refusal("a row alone", size)
        return [candidate for candidate in alone if candidate.width[1] > 1] or alone

    def chunks(self, size: CacheSize, count: int, wanted: Sequence[int]) -> tuple[PrefillChunk[Candidate], ...]:
        """The chunks in which `count` tokens of one row are run, for the logits of the positions `wanted`.

        Plans of one token, which serve to decode, take part only where the others cannot do it.

        Raises:
            RequestError: if the plans cannot do it together.
        """
        found = cheapest_chunks(self.prefill(size), count, wanted) or cheapest_chunks(self._alone(size), count, wanted)
        if not found:
            raise self._refusal(f"{count} tokens of a row for {len(wanted)} logits", size)
        return found

    def _alone(self, size: CacheSize) -> list[Candidate]:
        return [
            candidate
            for candidate in self._candidates
            if candidate.capacity == size.capacity and candidate.takes(1, candidate.width[1], candidate.logits[1])
        ]

    def _refusal(self, what: str, size: CacheSize) -> RequestError:
        return RequestError(
            f"no plan of the engine runs {what} with caches of {size.capacity} tokens; "
            f"it is built for {self._limits()}",
            hint=_SMALLER,
        )

    def _decode_sizes(self, batch: int) -> Iterator[CacheSize]:
        for candidate in self._candidates:
            rows = max(batch, candidate.rows[0])
            if candidate.takes(rows, 1, 1):
                yield CacheSize(rows, candidate.capacity)

    def _limits(self) -> str:
        return "; ".join(
            f"{low} to {high} sequences of {each.capacity} tokens, {each.width[1]} at a time ({each.plan.name})"
            for each in self._candidates
            for low, high in (each.rows,)
        )


def _model(signature: Signature) -> object:
    caches = {(cache.name, cache.shape(0, 0), cache.dtype) for cache in signature.caches}
    return caches, signature.received, signature.sent, signature.logits
