"""What timed runs say, from times that are made up."""

import pytest

from llmc.benchmarking.memory import PeakMemory, forget_peaks, peaks
from llmc.benchmarking.runs import Cell, Figure, Load, Times, measure


def test_times_are_means_over_the_sequences():
    times = Times.of(10.0, [[11.0, 12.0, 13.0], [12.0, 15.0, 18.0]], 19.0)
    assert times == Times(1.5, 2.0, 9.0)
    assert Times.of(0.0, [[1.0], [3.0]], 3.0) == Times(2.0, None, 3.0)


def test_figures_are_medians_with_their_spread():
    assert Figure.of([3.0, 1.0, 2.0, 10.0]) == Figure(2.5, 1.0, 10.0)
    assert Figure.of([1.0, None]) is None
    assert Figure.of([]) is None


def test_the_share_of_the_bound():
    cell = Cell("a", Load(2, 8, 4), None, Figure(0.02, 0.01, 0.03), Figure(1.0, 1.0, 1.0), 0.005, PeakMemory(1, None))
    assert cell.share == pytest.approx(0.25)
    assert cell.to_json()["bound_share"] == pytest.approx(0.25)
    assert cell.to_json()["token_seconds"] == {"median": 0.02, "least": 0.01, "largest": 0.03}
    assert Cell("a", cell.load, None, None, cell.rate, None, cell.memory).share is None


class Runner:
    """Runs whose times are known: the n-th takes n seconds."""

    name, warm_up = "made up", 2

    def __init__(self):
        self.seen = []

    def run(self, prompts, output):
        self.seen.append((prompts, output))
        seconds = float(len(self.seen))
        return Times(seconds / 10, seconds / 100, seconds)


@pytest.mark.parametrize(("warm_up", "runs"), [(None, 5), (0, 3), (1, 4)])
def test_runs_that_warm_up_do_not_count(warm_up, runs):
    runner = Runner()
    ended: list[int] = []
    how = {"repeats": 3, "warm_up": warm_up, "bound": 0.01, "advance": ended.append}
    cell = measure(runner, Load(2, 3, 4), lambda load: [[1] * load.input] * load.batch, **how)
    assert runner.seen == [([[1, 1, 1], [1, 1, 1]], 4)] * runs
    assert sum(ended) == runs
    counted = range(runs - 2, runs + 1)
    assert cell.first == Figure(counted[1] / 10, counted[0] / 10, counted[2] / 10)
    assert cell.each is not None
    assert cell.each.median == pytest.approx(counted[1] / 100)
    assert cell.rate.largest == pytest.approx(2 * 4 / counted[0])
    assert cell.bound == 0.01


def test_the_memory_that_was_held_at_most_is_seen():
    forget_peaks()
    before = peaks().host
    held = bytearray(b"\1") * 100_000_000
    assert peaks().host > before + 50_000_000
    assert len(held) == 100_000_000
