"""Frequencies of rotary position embeddings, and the ways to stretch them to longer contexts.

Computed in float32 step by step as transformers does, because a model was trained with those roundings: at position
100,000 the last bit of a frequency turns a vector by a hundredth of a radian.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compiler.frontends.config import Config

_F32 = np.float32


@dataclass(frozen=True)
class Rope:
    """Rotary positions: pair `i` of a head turns by `position * frequencies[i]`.

    Attributes:
        frequencies: one for each pair, exact in float32.
        amplitude: factor on cosines and sines.
        unscaled: the frequencies before they were stretched; empty if they were not.
    """

    frequencies: tuple[float, ...]
    amplitude: float = 1.0
    unscaled: tuple[float, ...] = ()


def plain_rope(width: int, base: float) -> Rope:
    """The frequencies of Su et al. (2021): `base ** (-2i / width)` for the pairs of `width` dims."""
    return Rope(_tuple(1 / _periods(width, base)))


def scaled_rope(
    config: Config, width: int, base: float, *, head_dim: int, context: int, original: int | None = None
) -> Rope:
    """The frequencies that `rope_type` (old: `type`) and the other keys of `config` describe.

    Args:
        config: the section that describes the scaling.
        width: how many of a head's dims rotate.
        base: the base of the geometric series.
        head_dim: all dims of a head.
        context: the context length.
        original: the context length before stretching, if it is known from elsewhere than the section.

    Raises:
        ConfigError: for a type that changes with the length of the input, or keys that do not fit.
    """
    kind = config.take("rope_type", str, aliases=("type",), default="default")
    plain = plain_rope(width, base)
    match kind:
        case "default" | "no_scaling":
            return plain
        case "linear":
            rope = Rope(_tuple(1 / _periods(width, base) / _F32(_factor(config))))
        case "proportional":
            rope = _proportional(config, width, base, head_dim)
        case "llama3":
            rope = _llama3(config, width, base, context, original)
        case "yarn":
            rope = _yarn(config, width, base, context, original)
        case _:
            raise config.unsupported("rope_type", kind, ("default", "linear", "llama3", "proportional", "yarn"))
    return replace(rope, unscaled=plain.frequencies)


def _proportional(config: Config, width: int, base: float, head_dim: int) -> Rope:
    factor = config.take("factor", float, default=1.0)
    turning = width // 2
    frequencies = np.zeros(head_dim // 2, _F32)
    frequencies[:turning] = 1 / np.power(_F32(base), np.arange(0, 2 * turning, 2, dtype=_F32) / _F32(head_dim))
    return Rope(_tuple(frequencies / _F32(factor)))


def _llama3(config: Config, width: int, base: float, context: int, known: int | None) -> Rope:
    """Long waves are stretched by the factor, short ones stay, those between are interpolated."""
    factor = _factor(config)
    low, high = config.take("low_freq_factor", float), config.take("high_freq_factor", float)
    if high <= low:
        raise config.invalid("high_freq_factor", f"it must be above low_freq_factor, which is {low}")
    stated = config.size("original_max_position_embeddings", default=context)
    original = known or stated
    plain = 1 / _periods(width, base)
    wavelength = _F32(2 * math.pi) / plain
    stretched = np.where(wavelength > _F32(original / low), plain / _F32(factor), plain)
    smooth = (_F32(original) / wavelength - _F32(low)) / _F32(high - low)
    between = (1 - smooth) * stretched / _F32(factor) + smooth * stretched
    medium = (wavelength >= _F32(original / high)) & (wavelength <= _F32(original / low))
    return Rope(_tuple(np.where(medium, between, stretched)))


def _yarn(config: Config, width: int, base: float, context: int, known: int | None) -> Rope:
    """Peng et al. (2023): a ramp over the pairs, from frequencies that stay to frequencies divided by the factor."""
    stated = config.size("original_max_position_embeddings", default=context)
    original = known or stated
    factor = config.take("factor", float, default=context / original)
    fast = config.take("beta_fast", float, default=0.0) or 32.0
    slow = config.take("beta_slow", float, default=0.0) or 1.0
    first, last = (width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base)) for turns in (fast, slow))
    if config.take("truncate", bool, default=True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    span = (last - first) or 0.001
    periods = _periods(width, base)
    ramp = np.clip((np.arange(len(periods), dtype=_F32) - _F32(first)) / _F32(span), 0, 1)
    stay = 1 - ramp
    frequencies = 1 / (_F32(factor) * periods) * (1 - stay) + 1 / periods * stay
    return Rope(_tuple(frequencies), _yarn_amplitude(config, factor))


def _yarn_amplitude(config: Config, factor: float) -> float:
    given = config.take("attention_factor", float, default=None)
    mscale = config.take("mscale", float, default=0.0)
    all_dim = config.take("mscale_all_dim", float, default=0.0)
    if given is not None:
        return given

    def amplitude(slope: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * slope * math.log(factor) + 1.0

    return amplitude(mscale) / amplitude(all_dim) if mscale and all_dim else amplitude(1.0)


def _factor(config: Config) -> float:
    factor = config.take("factor", float)
    if factor <= 0:
        raise config.invalid("factor", "it must be positive")
    return factor


def _periods(width: int, base: float) -> np.ndarray[Any, Any]:
    periods: np.ndarray[Any, Any] = np.power(_F32(base), np.arange(0, width, 2, dtype=_F32) / _F32(width))
    return periods


def _tuple(values: np.ndarray[Any, Any]) -> tuple[float, ...]:
    return tuple(map(float, values.astype(_F32)))
