"""Random numbers that follow from a counter."""

import numpy as np
import pytest

from runtime.generation.random_numbers import philox, uniform


def words(*values):
    return [np.array([value], dtype=np.uint64) for value in values]


# The known answers that the authors of the algorithm publish with it.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, expected) -> None:
    assert tuple(int(word[0]) for word in philox(words(*counter), words(*key))) == expected


COUNT, BINS = 20_000, 50
SERIES = {
    "positions": ([7] * COUNT, [0] * COUNT, range(COUNT)),
    "samples": ([7] * COUNT, range(COUNT), [0] * COUNT),
    "seeds": (range(COUNT), [0] * COUNT, [0] * COUNT),
}


@pytest.mark.parametrize("series", SERIES)
def test_numbers_are_uniform_along_each_argument(series) -> None:
    numbers = uniform(*SERIES[series])
    assert numbers.min() >= 0 and numbers.max() < 1
    counts, _ = np.histogram(numbers, BINS, (0, 1))
    statistic = ((counts - COUNT / BINS) ** 2 / (COUNT / BINS)).sum()
    assert 23.98 < statistic < 85.35  # the quantiles of 0.1 % and 99.9 % of chi-square with 49 degrees of freedom
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 3.3 / np.sqrt(COUNT)


def test_numbers_differ_by_seed_sample_and_position_and_have_all_their_bits() -> None:
    triples = [(s, j, i) for s in (0, 1, 2**32, 2**63) for j in (0, 1, 2**40) for i in (0, 1, 2**33)]
    numbers = uniform(*zip(*triples, strict=True))
    assert len(set(numbers.tolist())) == len(triples)
    assert any(number * 2**52 % 1 for number in numbers)
    alone = [float(uniform([s], [j], [i])[0]) for s, j, i in triples]
    assert alone == numbers.tolist()
