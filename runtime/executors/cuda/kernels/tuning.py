"""Which launch of a product is the fastest: tile sizes, warps, stages and parts of a sum, by shape and GPU.

Launches are measured (see `measuring`) for some shapes on some GPUs; `tuned.json` beside this file has those that come
with llmc, a file in the cache folder those that were measured on this machine. Any other case takes the launch of the
nearest measured one, with the sum split so that as many programs run.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from compiler.atomic_file import replacing
from compiler.cache import cache_folder

BUCKETS = (1, 8, 16, 32, 64, 128, 256, 512)
"""Rows of a product for which launches are chosen: up to each."""
LEAST_TILE = 8
"""Rows that matrix instructions multiply at least."""
MOST_ROWS = 64
"""Rows up to which a program computes all rows, whatever the weight is."""
MOST_TILED = BUCKETS[-1]
"""Rows up to which kernels may read quantized weights as they are stored; of more, libraries are faster."""
LIBRARY = "library"
"""The kind of launch that is none: weights are made floats, and cuBLAS multiplies."""
SPLITS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
LEAST_PART = 256
"""Columns of the weight that a program sums up at least, where a sum is split."""
_LIKE = {"NVIDIA H200": "NVIDIA H100 80GB HBM3"}
"""GPUs that take the launches of another, of as many multiprocessors."""
_FORMAT = 1
_KINDS = ("dot", "sliced", "gemv", LIBRARY)
_TILE_ROWS = (16, 32, 64, 128, 256)
_NEAR = 2.0  # the distance of cases whose launches are taken for each other, without measuring
_FEW = 16  # rows: of more, each warp would have to read as many for a few columns of the result
_PROGRAMS = (0.9, 6)  # a multiprocessor, between which splits are tried


class Config(NamedTuple):
    """How a product is launched.

    Attributes:
        kind: "dot" by matrix instructions; "sliced" by those, too, each warp for a slice of a step; "wide" by those in
            tiles of rows (quantized weights only); "gemv" without (one row only); or `LIBRARY`.
        bn: columns of the result that a program computes.
        bk: columns of the weight that it reads in a step.
        warps: warps of a program.
        stages: steps whose reads are under way at once.
        split: programs among which the columns of the weight are divided.
        bm: of "wide", the rows of a tile; else 0.
    """

    kind: str
    bn: int
    bk: int
    warps: int
    stages: int
    split: int
    bm: int = 0


BY_LIBRARY = Config(LIBRARY, 1, 1, 1, 1, 1)
_FIELDS = len(Config._fields)


class Case(NamedTuple):
    """What a launch is chosen for.

    Attributes:
        form: how the weight is stored; see `weights.JoinedWeight`.
        bits: of an activation: 16 or 32, or 8 if it is rounded.
        group: columns that share a scale, 0 if all do.
        n: columns of the result.
        k: columns of the weight.
        rows: one of `BUCKETS`.
        partial: whether the parts of a split sum are left to the caller.
    """

    form: str
    bits: int
    group: int
    n: int
    k: int
    rows: int
    partial: bool

    @property
    def key(self) -> str:
        """The case as text, by which choices are kept."""
        return f"{self.form} x{self.bits} g{self.group} {self.n}x{self.k} rows{self.rows}{'p' if self.partial else ''}"

    @classmethod
    def parse(cls, key: str) -> Case | None:
        """The case of a key, None if it is none."""
        match = re.fullmatch(r"(\w+) x(\d+) g(\d+) (\d+)x(\d+) rows(\d+)(p?)", key)
        if not match:
            return None
        form, *sizes, partial = match.groups()
        bits, group, n, k, rows = map(int, sizes)
        return cls(form, bits, group, n, k, rows, bool(partial))

    def distance(self, other: Case) -> float:
        """How far another case of the same form is from this one; infinite if a launch of it says nothing of this."""
        if (self.form, self.bits) != (other.form, other.bits) or (self.rows == 1) != (other.rows == 1):
            return math.inf
        if (self.rows > MOST_ROWS) != (other.rows > MOST_ROWS):
            return math.inf
        if not other.n * other.k * other.rows:
            return math.inf
        shape = abs(math.log2(self.n / other.n)) + abs(math.log2(self.k / other.k))
        shape += abs(math.log2(self.rows / other.rows))
        return shape + 16 * ((self.group > 0) != (other.group > 0)) + 4 * (self.group != other.group)

    def weight_bits(self) -> int:
        """Bits of a value of the weight."""
        return {"dense": self.bits, "int4": 4}.get(self.form, 8)


def bucket(rows: int) -> int:
    """The bucket of a number of rows, which is at most `MOST_TILED`."""
    return next(b for b in BUCKETS if rows <= b)


class Tuning:
    """The launches chosen for a GPU."""

    def __init__(
        self,
        gpu: str | None,
        processors: int,
        shared_memory: int,
        known: Mapping[str, Config] | None = None,
        shipped: Mapping[str, Config] | None = None,
    ) -> None:
        """Launches that were measured, and how others follow from them.

        Args:
            gpu: the GPU's name; None keeps nothing on disk.
            processors: the GPU's multiprocessors.
            shared_memory: bytes that a program may use.
            known: launches that were measured on this machine, by `Case.key`.
            shipped: launches that were measured on such a GPU, or one like it.
        """
        self.gpu = gpu
        self.processors = processors
        self.shared_memory = shared_memory
        self.known = dict(known or {})
        self.shipped = dict(shipped or {})
        self.notes: list[str] = []

    @classmethod
    def of(cls, device: torch.device) -> Tuning:
        """The launches for a device; a CPU, on which Triton interprets, is taken for a GPU with few processors."""
        if device.type != "cuda":
            return cls(None, 4, 1 << 17)
        properties = torch.cuda.get_device_properties(device)
        memory = getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block)
        tuning = cls(properties.name, properties.multi_processor_count, memory, shipped=_shipped(properties.name))
        tuning.read()
        return tuning

    def is_known(self, case: Case) -> bool:
        """Whether launches of such a case, or of one near to it, have been measured on such a GPU."""
        measured = self.known | (self.shipped if self.gpu in _all_shipped() else {})
        cases = (Case.parse(key) for key in measured)
        return any(other is not None and case.distance(other) <= _NEAR for other in cases)

    def config(self, case: Case) -> Config:
        """The launch for a case: the one that was measured, or one by the nearest case, or by rules."""
        for table in (self.known, self.shipped):
            found = table.get(case.key) or table.get(case._replace(partial=not case.partial).key)
            if found:
                return self._within_memory(case, found)
        cases = [c for key in self.known.keys() | self.shipped.keys() if (c := Case.parse(key)) is not None]
        nearest = min(sorted(cases), key=case.distance, default=None)
        if nearest is None or math.isinf(case.distance(nearest)):
            return self.by_rule(case)
        config = self.known.get(nearest.key) or self.shipped[nearest.key]
        if config.kind == LIBRARY:
            return config
        programs = _programs(nearest, config) * config.split
        return self._within_memory(case, config._replace(split=self._split(case, config, programs)))

    def by_rule(self, case: Case) -> Config:
        """A launch that is good for any shape: enough programs to fill the GPU, with enough reads under way in each."""
        config = tiles(case)[0]
        wanted = (1 if case.rows > MOST_ROWS else 3) * self.processors
        return self._within_memory(case, config._replace(split=self._split(case, config, wanted)))

    def _within_memory(self, case: Case, config: Config) -> Config:
        if config.kind in ("gemv", LIBRARY):
            return config
        most = max(1, self.shared_memory // _stage_bytes(case, config))
        return config._replace(stages=min(config.stages, most))

    def _split(self, case: Case, config: Config, programs: int) -> int:
        """A split of the sum with about so many programs."""
        most = max(1, case.k // LEAST_PART)
        whole = _programs(case, config)
        fits = [s for s in SPLITS if s <= most]
        return min(fits, key=lambda s: abs(math.log2(max(whole * s, 1) / programs)))

    def candidates(self, case: Case) -> Iterator[Config]:
        """Launches worth measuring for a case."""
        for tile in tiles(case):
            if tile.kind == LIBRARY:
                yield tile
                continue
            if tile.kind != "gemv" and tile.stages * _stage_bytes(case, tile) > self.shared_memory:
                continue
            programs = _programs(case, tile) / self.processors
            fits = [s for s in SPLITS if s * LEAST_PART <= case.k and case.k % (s * tile.bk) == 0] or [1]
            good = [s for s in fits if _PROGRAMS[0] <= s * programs <= _PROGRAMS[1]]
            most = 3 if tile.kind == "wide" else 4
            for split in (good or [fits[-1] if programs < 1 else fits[0]])[:most]:
                yield tile._replace(split=split)

    def keep(self, case: Case, config: Config) -> None:
        """Keep a launch that was measured; `write` keeps it on disk."""
        self.known[case.key] = config

    def write(self) -> None:
        """Keep on disk what was measured, beside what other processes have measured; failing is no error."""
        if self.gpu is None:
            return
        path = _kept_path(self.gpu)
        try:
            kept, _ = _read_choices(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_text(json.dumps({"format": _FORMAT, "launches": {**kept, **self.known}}, indent=1))
        except OSError as error:
            self.notes.append(f"launches that were measured cannot be kept in {path}: {error.strerror or error}")

    def read(self) -> None:
        """Read what was measured on this machine; a file that is none is ignored with a note."""
        assert self.gpu is not None
        path = _kept_path(self.gpu)
        self.known, bad = _read_choices(path)
        if bad:
            self.notes.append(f"{path} is ignored: {bad}")


_Tile = tuple[str, int, int, int, int]


def tiles(case: Case) -> tuple[Config, ...]:
    """Launches of unsplit sums worth measuring; the first is the best guess."""
    if case.bits == 8 and case.rows > MOST_ROWS:
        return (BY_LIBRARY, *(_rounded_tiles(case) if case.form == "int8" else ()))
    by_rows = _wide_tiles(case) if case.rows > _FEW and case.form != "dense" and case.bits == 16 else ()
    if case.rows > MOST_ROWS:
        return (*by_rows[:1], BY_LIBRARY, *by_rows[1:])
    return (*(Config(*tile, split=1) for tile in _tiles(case)), *by_rows)


_WIDE = ((64, 64, 64, 4, 5), (64, 64, 128, 4, 4), (64, 128, 64, 8, 5), (64, 128, 128, 8, 4), (128, 64, 64, 4, 4),
         (128, 128, 64, 8, 4), (128, 128, 128, 8, 3), (128, 256, 64, 8, 3), (256, 64, 64, 4, 3),
         (256, 128, 64, 8, 3))  # fmt: skip
"""Rows, columns of the result and of the weight, warps and stages of tiles."""
_MOST_SUMS = 128
"""Of a tile, for each thread; half as many where those of a group are apart, until they are scaled."""


def _wide_tiles(case: Case) -> tuple[Config, ...]:
    """Tiles of rows that the rows of a case fill; the first is the best guess."""
    step = 128 if case.form == "int4" else 64
    most = _MOST_SUMS // 2 if case.group else _MOST_SUMS
    least = 64 if case.rows <= 256 else 128
    fits = [
        Config("wide", bn, max(bk, step), warps, stages, 1, bm)
        for bm, bn, bk, warps, stages in _WIDE
        if least <= bm <= max(64, case.rows) and bm * bn <= 32 * warps * most
    ]
    best = min(128, max(64, case.rows))
    return tuple(dict.fromkeys(sorted(fits, key=lambda tile: (tile.bm != best, tile.bn != 128))))


_ROUNDED = ((128, 128, 128, 8, 3), (128, 128, 64, 8, 4), (128, 128, 128, 4, 3), (128, 256, 128, 8, 4),
            (128, 256, 64, 8, 4), (256, 128, 128, 8, 4), (256, 128, 64, 8, 4), (64, 128, 128, 4, 4),
            (64, 256, 128, 8, 3))  # fmt: skip
"""The same of tiles of rounded rows."""


def _rounded_tiles(case: Case) -> tuple[Config, ...]:
    """Tiles of rounded rows that the rows of a case fill."""
    least = 64 if case.rows <= 256 else 128
    return tuple(
        Config("wide", bn, bk, warps, stages, 1, bm)
        for bm, bn, bk, warps, stages in _ROUNDED
        if least <= bm <= max(128, case.rows)
    )


def _tiles(case: Case) -> tuple[_Tile, ...]:
    one, few = case.rows == 1, case.rows <= _FEW
    row: tuple[_Tile, ...] = ()
    if case.bits == 32:
        row = (("gemv", 8, 256, 4, 3), ("gemv", 4, 512, 4, 3)) if one else ()
        return (*row, ("dot", 32, 64, 4, 3), ("dot", 64, 32, 4, 4))
    if case.bits == 8:
        more = () if few else (("dot", 64, 256, 8, 4), ("dot", 64, 128, 4, 8), ("dot", 128, 256, 4, 3))
        return (("dot", 64, 256, 4, 4), ("dot", 128, 128, 4, 5), ("dot", 64, 128, 4, 6), ("dot", 128, 256, 8, 3),
                ("dot", 128, 128, 8, 5), ("dot", 64, 512, 4, 3), ("dot", 256, 128, 8, 4), *more)  # fmt: skip
    if case.form == "dense":
        row = (("gemv", 4, 1024, 4, 3), ("gemv", 8, 512, 4, 3)) if one else ()
        row += (("sliced", 32, 256, 4, 4), ("sliced", 16, 512, 4, 4)) if few else ()
        return (("dot", 64, 128, 4, 4), ("dot", 64, 256, 4, 3), ("dot", 128, 64, 4, 5), ("dot", 64, 64, 4, 6),
                ("dot", 128, 128, 8, 3), ("dot", 32, 256, 4, 3), *row)  # fmt: skip
    wide: tuple[_Tile, ...]
    few_rows: tuple[_Tile, ...]
    if case.form == "int4":
        few_rows = (("sliced", 64, 512, 4, 3), ("sliced", 32, 512, 4, 4), ("sliced", 64, 256, 2, 4),
                    ("sliced", 32, 1024, 8, 3), ("sliced", 64, 1024, 8, 3), ("sliced", 64, 512, 4, 4),
                    ("dot", 128, 128, 4, 5), ("dot", 64, 256, 4, 4))  # fmt: skip
        wide = (("dot", 128, 128, 4, 5), ("dot", 64, 128, 4, 5), ("dot", 64, 256, 4, 4), ("dot", 128, 256, 4, 3),
                ("dot", 128, 256, 8, 3), ("dot", 256, 128, 8, 4), ("dot", 256, 128, 8, 3), ("dot", 128, 128, 8, 5),
                ("dot", 64, 128, 2, 5))  # fmt: skip
        row = (("gemv", 64, 256, 4, 3),) if one else ()
        return (*few_rows, *row) if few else wide
    few_rows = (("sliced", 32, 512, 4, 3), ("sliced", 32, 256, 4, 4), ("sliced", 16, 512, 4, 4),
                ("sliced", 64, 256, 2, 4), ("dot", 32, 256, 4, 4), ("dot", 64, 128, 4, 5),
                ("dot", 64, 256, 4, 4))  # fmt: skip
    wide = (("dot", 64, 128, 4, 5), ("dot", 64, 256, 4, 4), ("dot", 128, 128, 4, 4), ("dot", 128, 128, 8, 5),
            ("dot", 64, 64, 4, 8), ("dot", 256, 64, 8, 5), ("dot", 256, 128, 8, 3), ("dot", 128, 64, 4, 6),
            ("dot", 64, 128, 2, 5))  # fmt: skip
    row = (("gemv", 4, 1024, 4, 3), ("gemv", 8, 512, 4, 3), ("gemv", 16, 256, 4, 3)) if one else ()
    return (*few_rows, *row) if few else wide


def _programs(case: Case, config: Config) -> int:
    """Programs of a launch, if the sum is not split."""
    return -(-case.n // config.bn) * (-(-case.rows // config.bm) if config.bm else 1)


def _stage_bytes(case: Case, config: Config) -> int:
    rows = config.bm or max(LEAST_TILE, case.rows)
    return config.bk * (config.bn * case.weight_bits() + rows * case.bits) // 8


def _kept_path(gpu: str) -> Path:
    return cache_folder() / f"products-{re.sub(r'[^A-Za-z0-9]+', '-', gpu)}.json"


def _read_choices(path: Path) -> tuple[dict[str, Config], str | None]:
    """The launches in a file, and what is wrong with it, if there is one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, None
    except (OSError, ValueError) as error:
        return {}, str(error)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        return {}, "it is of another format"
    return configs(content.get("launches")), None


def configs(launches: Any) -> dict[str, Config]:
    """Launches as JSON has them; those that cannot be are left out."""
    if not isinstance(launches, dict):
        return {}
    found = {}
    for key, value in launches.items():
        if Case.parse(key) is None or not isinstance(value, list) or len(value) not in (_FIELDS - 1, _FIELDS):
            continue
        kind, *sizes, bm = value if len(value) == _FIELDS else [*value, 0]
        whole = all(isinstance(size, int) and 0 < size <= 4096 for size in sizes)
        if not whole or not all(size & (size - 1) == 0 for size in sizes[:3]):
            continue
        if bm in _TILE_ROWS if kind == "wide" else kind in _KINDS and bm == 0:
            found[key] = Config(kind, *sizes, bm)  # type: ignore[call-arg]  # mypy does not count sizes
    return found


@cache
def _all_shipped() -> dict[str, dict[str, Config]]:
    content = json.loads(Path(__file__).with_name("tuned.json").read_text(encoding="utf-8"))
    tables = {gpu: configs(launches) for gpu, launches in content.items()}
    return tables | {gpu: tables[other] for gpu, other in _LIKE.items() if other in tables and gpu not in tables}


def _shipped(gpu: str) -> dict[str, Config]:
    """What is shipped for a GPU; of an unknown one, what is for the first: a better guess than any rule."""
    tables = _all_shipped()
    return tables.get(gpu) or next(iter(tables.values()), {})
