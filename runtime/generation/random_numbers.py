"""Uniform random numbers that follow from a seed and a counter alone: Philox 4x32-10.

Such a generator has no state to keep for each request: a draw is a function of the request's seed, the number of the
sample and the number of the token. The algorithm is that of Salmon et al., "Parallel random numbers: as easy as
1, 2, 3" (2011).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_Words = npt.NDArray[np.uint64]
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_ROUNDS = 10


def philox(counter: Sequence[_Words], key: Sequence[_Words]) -> tuple[_Words, _Words, _Words, _Words]:
    """Four words of random bits for each counter and key.

    Args:
        counter: four arrays of 32-bit words, in 64-bit integers.
        key: two arrays of 32-bit words, of the same shape.

    Returns:
        Four arrays of 32-bit words.
    """
    a, b, c, d = counter
    first, second = key
    for _ in range(_ROUNDS):
        x, y = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (y >> _32) ^ b ^ first, y & _LOW, (x >> _32) ^ d ^ second, x & _LOW
        first, second = (first + _KEY_STEPS[0]) & _LOW, (second + _KEY_STEPS[1]) & _LOW
    return a, b, c, d


def uniform(seeds: Sequence[int], samples: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.float64]:
    """A number in [0, 1), a multiple of 2**-53, for each triple of a seed, a sample and a position.

    Args:
        seeds: integers from 0, below 2**64.
        samples: the numbers of the samples that a request draws, below 2**64.
        positions: the numbers of the new tokens, below 2**64.
    """
    seed, sample, position = (np.array(list(values), dtype=np.uint64) for values in (seeds, samples, positions))
    counter = (position & _LOW, position >> _32, sample & _LOW, sample >> _32)
    high, low, _, _ = philox(counter, (seed & _LOW, seed >> _32))
    bits = (high << np.uint64(21)) | (low >> np.uint64(11))
    return bits.astype(np.float64) * 2.0**-53
