"""Slopes of ALiBi (Press et al., 2022), for any number of heads."""


def alibi_slopes(heads: int, bias_max: float) -> tuple[float, ...]:
    """One slope a head: a geometric series down to `2 ** -bias_max`.

    Where `heads` is no power of two, the series of the next power is taken, its odd members first.
    """
    power = 1 << (heads - 1).bit_length()
    series = [2.0 ** -(i * bias_max / power) for i in range(1, power + 1)]
    return tuple(series) if power == heads else tuple((series[1::2] + series[::2])[:heads])
