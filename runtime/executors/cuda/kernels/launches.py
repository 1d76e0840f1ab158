"""How a product's kernels are launched: a configuration made to fit a weight."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton

from runtime.executors.cuda.kernels.tuning import BY_LIBRARY, LIBRARY, MOST_ROWS, Config
from runtime.executors.cuda.kernels.weights import DENSE, JoinedWeight

_LEAST_STEP = 32  # columns: a step of fewer is masked, if it can be
_MOST_EXACT = 1 << 17  # columns: the sum of fewer products of two int8 numbers is an int32
_MOST_FLOAT8 = 128  # columns whose products matrix instructions add up, with fewer bits than float32 has
_LEAST_WHOLE = 512  # columns that share a scale and are summed up in a loop of their own
_MOST_TOGETHER = 64  # columns of which a thread reads a quarter at once
_MOST_PAIR = 64  # sums of a thread of rounded tiles with two inputs, which are summed up twice
_INTERPRETED = bool(triton.knobs.runtime.interpret)


class Launch(NamedTuple):
    """A configuration that fits a product, and what follows from it.

    Attributes:
        config: the configuration.
        bk: columns of a step.
        split: into how many parts the sum is split.
        part_k: columns of a part.
        constants: of the kernel.
        whole_k: of rounded tiles, columns of one input that lie together in each part.
    """

    config: Config
    bk: int
    split: int
    part_k: int
    constants: dict[str, Any]
    whole_k: int = 0


def fit(config: Config, weight: JoinedWeight, rows: int, rounded: bool = False) -> Launch:
    """A configuration as a weight can use it: steps that divide its columns, parts that are whole steps.

    What no own kernel can compute is left to libraries.
    """
    if config.kind == LIBRARY or (rows > MOST_ROWS and (config.kind != "wide" or not can_tile(weight, rounded))):
        return Launch(BY_LIBRARY, 1, 1, weight.k, {})
    if config.kind == "wide" and can_tile(weight, rounded):
        return _fit_rounded(config, weight) if rounded else _fit_wide(config, weight)
    if config.kind == "wide":
        config = Config("dot", 64, 128, 4, 4, config.split)
    if (rows > 1 or rounded) and config.kind == "gemv":
        config = config._replace(kind="dot", bn=64, bk=128)
    if config.kind == "sliced" and (rounded or not _can_slice(config, weight)):
        config = config._replace(kind="dot", bn=64, bk=128, warps=4)
    k = weight.k
    bk = max(config.bk, weight.chunk)
    while bk > 16 and any(columns % bk for columns in weight.columns):
        bk //= 2
    pair = len(weight.columns) == 2
    one_scale = weight.group in (0, k)
    if bk < _LEAST_STEP and one_scale and weight.form != "int4":  # the last step is masked
        bk = max(16, min(config.bk, triton.next_power_of_2(k)))
        pair = pair and not any(columns % bk for columns in weight.columns)
    split, part_k = _parts(k, bk, config.split)
    if weight.scale is None:
        scale = 0
    else:
        scale = 1 if one_scale or weight.group % part_k == 0 else 2
        if rounded and (pair or part_k >= _MOST_EXACT):
            scale = 2
    half = weight.chunk // 2
    block = half or bk
    sub = min(block, weight.group & -weight.group) if scale == 2 and not one_scale else block
    if rounded and weight.form == "float8":
        sub = min(sub, _MOST_FLOAT8)
    constants = {
        "FORM": weight.form,
        "PAIR": pair,
        "SCALE": scale,
        "ZERO": weight.zero is not None,
        "GROUP": 0 if one_scale else weight.group,
        "BN": config.bn,
        "BK": bk,
        "SUB": sub,
        "CHUNK": weight.chunk,
        "SLICES": config.warps,
        "SAME": half > 0 and weight.group % weight.chunk == 0,
        "EVEN_N": weight.rows % config.bn == 0,
        "EVEN_K": k % bk == 0,
        "NATIVE": not _INTERPRETED,
        "PART": part_k if _INTERPRETED else 0,
    }
    return Launch(config, bk, split, part_k, constants)


def _fit_wide(config: Config, weight: JoinedWeight) -> Launch:
    """The same for tiles of rows."""
    k = weight.k
    together = _together(weight)
    bk = max(config.bk, weight.chunk, together)
    while k % bk:
        bk //= 2
    split, part_k = _parts(k, bk, config.split)
    one_scale = weight.group == k
    scale = 1 if one_scale or weight.group % part_k == 0 else 2
    whole = math.gcd(weight.group, part_k)
    constants = {
        "FORM": weight.form,
        "WHOLE": whole if scale == 2 and whole % bk == 0 and whole >= _LEAST_WHOLE else 0,
        "SCALE": scale,
        "ZERO": weight.zero is not None,
        "GROUP": 0 if one_scale else weight.group,
        "BM": config.bm,
        "BN": config.bn,
        "BK": bk,
        "SPAN": min(bk, weight.group & -weight.group) if scale == 2 else bk,
        "U": together,
        "CHUNK": weight.chunk,
        "EVEN_N": weight.rows % config.bn == 0,
        "NATIVE": not _INTERPRETED,
        "PART": part_k if _INTERPRETED else 0,
    }
    return Launch(config, bk, split, part_k, constants)


def _fit_rounded(config: Config, weight: JoinedWeight) -> Launch:
    """The same for tiles of rows that are rounded."""
    most = math.gcd(*weight.columns)
    pair = len(weight.columns) == 2
    while pair and config.bm * config.bn > 32 * config.warps * _MOST_PAIR:
        config = config._replace(bn=config.bn // 2)
    bk = config.bk
    while most % bk:
        bk //= 2
    split, part_k = _parts(weight.k, bk, config.split)
    whole = math.gcd(most, part_k)
    constants = {
        "PAIR": pair,
        "WHOLE": whole if _INTERPRETED else 0,
        "BM": config.bm,
        "BN": config.bn,
        "BK": bk,
        "EVEN_N": weight.rows % config.bn == 0,
        "NATIVE": not _INTERPRETED,
        "PART": part_k if _INTERPRETED else 0,
    }
    return Launch(config, bk, split, part_k, constants, whole)


def can_tile(weight: JoinedWeight, rounded: bool) -> bool:
    """Whether tiles of rows are multiplied by a weight: a quantized one whose columns come in whole blocks.

    `wide` does so with 16-bit activations, `wide_rounded` with int8 ones.
    """
    if rounded:
        whole = not any(columns % _LEAST_STEP or columns >= _MOST_EXACT for columns in weight.columns)
        return whole and weight.whole and weight.form == "int8"
    if weight.form == DENSE or weight.dtype is torch.float32:
        return False
    return weight.group % max(_LEAST_STEP, weight.chunk) == 0


def _together(weight: JoinedWeight) -> int:
    """Columns of a block in which those of the activations are in another order; see `wide`."""
    return weight.chunk // 2 or min(_MOST_TOGETHER, weight.group & -weight.group)


def _parts(k: int, bk: int, wanted: int) -> tuple[int, int]:
    """Into how many parts of how many columns a sum of `k` columns is split, in whole steps."""
    steps = -(-k // bk)
    split = max(1, min(wanted, steps))
    if k % bk == 0:
        while steps % split:
            split -= 1
    part_k = -(-steps // split) * bk
    return -(-k // part_k), part_k


def _can_slice(config: Config, weight: JoinedWeight) -> bool:
    """Whether all slices are whole, and the columns of each share a scale."""
    width = config.bk // config.warps
    whole = not any(columns % config.bk for columns in weight.columns)
    one_scale = weight.group == 0 or weight.group % width == 0
    return whole and one_scale and (width == weight.chunk if weight.chunk else width >= _LEAST_STEP)
