"""Which factors of a graph to split over the ranks of a stage.

A *pair* is what tensor parallelism is made of: linears whose outputs are split (by the rows of their weights), and
linears that sum over these outputs (split by the columns of theirs). Between them nothing needs all of what is split,
so each rank has work of its own until the sums are added up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import gcd, prod

from compiler.errors import PassError
from compiler.ir.op import Op
from compiler.passes.parallel.factors import Factor
from compiler.passes.parallel.graph_factors import GraphFactors, Use
from compiler.passes.parallel.index import Index, Split


@dataclass(frozen=True)
class Pair:
    """Linears that are split together.

    Attributes:
        rows: the linears whose input is split; their results are sums over all ranks.
        columns: the linears whose result is split.
        splits: what is split.
        saved: the bytes of weights that a rank need not store.
    """

    rows: tuple[Op, ...]
    columns: tuple[Op, ...]
    splits: Mapping[Factor, Split]
    saved: int


@dataclass(frozen=True)
class Sharding:
    """What to split, and why the rest stays whole.

    Attributes:
        pairs: the pairs.
        splits: all that is split.
        declined: by name, the linears that stay whole, with the reason.
        heads: the names of the linears that make an output of the graph.
    """

    pairs: tuple[Pair, ...]
    splits: Mapping[Factor, Split]
    declined: Mapping[str, tuple[Op, str]]
    heads: frozenset[str]


def choose_sharding(factors: GraphFactors, ranks: int) -> Sharding:
    """The pairs to split over a number of ranks.

    Raises:
        PassError: if there is no pair, or one that does not split evenly; the message says which numbers would do.
    """
    index = Index(factors)
    candidates, sizes = _candidates(index, ranks)
    if not sizes:
        raise PassError(
            "tp finds nothing to split: no linear sums over what other linears compute, part by part",
            hint="leave tp out of --passes; --explain shows why linears stay whole",
        )
    for op in factors.contractions:
        if sizes.get(op.name, 0) % ranks:
            raise _uneven(op, sizes[op.name], gcd(*sizes.values()), ranks)
    pairs = _compatible(index, candidates)
    splits = {factor: split for pair in pairs for factor, split in pair.splits.items()}
    used = {op.name for pair in pairs for op in (*pair.rows, *pair.columns)}
    declined = {op.name: (op, _reason(index, op)) for op in factors.contractions if op.name not in used}
    heads = frozenset(op.name for op in factors.contractions if index.is_head(op))
    return Sharding(tuple(pairs), splits, declined, heads)


def _candidates(index: Index, ranks: int) -> tuple[list[Pair], dict[str, int]]:
    """All pairs that could be split; and by the name of their first row, how many parts they have."""
    pairs: dict[frozenset[Factor], Pair] = {}
    sizes: dict[str, int] = {}
    for op in index.factors.contractions:
        free = index.free(op)
        found = frozenset(free)
        if not free or found in pairs or index.is_head(op):
            continue
        columns = _unique(linear for leaf in free for linear in index.columns.get(leaf, ()))
        rows = _unique(linear for leaf in free for linear in index.rows[leaf])
        if not columns or not all(_sums_all(index, row, found) for row in rows):
            continue
        size = prod(leaf.size for leaf in free if isinstance(leaf.size, int))
        sizes[op.name] = size
        if size % ranks == 0:
            splits = _distributed(free, ranks)
            pairs[found] = Pair(rows, columns, splits, index.bytes_saved(splits))
    return list(pairs.values()), sizes


def _unique(ops: Iterable[Op]) -> tuple[Op, ...]:
    return tuple({op.name: op for op in ops}.values())


def _sums_all(index: Index, op: Op, factors: frozenset[Factor]) -> bool:
    """Whether the partial sums of a linear are different ones on every rank, and all that is split in it."""
    return factors <= set(index.summed(op)) and factors.isdisjoint(index.made(op)) and not index.is_head(op)


def _distributed(factors: Iterable[Factor], ranks: int) -> dict[Factor, Split]:
    """Each factor takes as many of the ranks as it can, the slowest first: key heads before the queries they share."""
    splits: dict[Factor, Split] = {}
    for factor in factors:
        parts = gcd(ranks, factor.size) if isinstance(factor.size, int) else 1
        ranks //= parts
        if parts > 1:
            splits[factor] = Split(parts, ranks)
    return splits


def _compatible(index: Index, candidates: list[Pair]) -> list[Pair]:
    """The candidates that save most, such that no tensor is split by two of them."""
    claimed: set[str | Use] = set()
    kept: list[Pair] = []
    for pair in sorted(candidates, key=lambda pair: -pair.saved):
        places = {place for factor in pair.splits for place in index.places[factor]}
        if claimed.isdisjoint(places):
            claimed |= places
            kept.append(pair)
    order = {op.name: i for i, op in enumerate(index.factors.contractions)}
    return sorted(kept, key=lambda pair: order[pair.rows[0].name])


def _reason(index: Index, op: Op) -> str:
    """The reason why a linear is not split, as the rest of a sentence."""
    factors = index.factors
    if index.is_head(op):
        return "its results are an output of the graph; embed=vocab or embed=hidden splits the output head"
    if not any(leaf in factors.whole for leaf in index.made(op)):
        return "its outputs, or what is computed from them, are not summed over by one linear"
    user = next(factors.whole[leaf] for leaf in index.made(op) if leaf in factors.whole)
    return f"{user.kind.name} %{user.name} needs all of its outputs" if user else "its results are an output"


def _uneven(op: Op, size: int, common: int, ranks: int) -> PassError:
    whole = op.operands[0].type.shape[-1]
    blocks = f", which are {size} blocks of {whole // size}," if isinstance(whole, int) and whole != size else ""
    return PassError(
        f"tp={ranks} cannot split the {whole} inputs of %{op.name} from {op.origin}{blocks} evenly",
        hint=f"this model can be split by {_listed(common)}",
    )


def _listed(common: int) -> str:
    """The numbers that divide `common`; those in the middle of many are left out."""
    good = [f"tp={n}" for n in range(2, common + 1) if common % n == 0]
    if len(good) > 8:
        good[4:-1] = ["..."]
    return ", ".join(good) or "no other number of ranks than 1"
