"""Which rank keeps the others from getting on."""

from runtime.collectives.rank_status import Status, StatusRecorder, late, silent

HOSTS = {0: "one", 1: "one", 2: "two"}


def busy(age: float, limit: float = 60.0, silence: float = 0.0) -> Status:
    return Status("busy", "a step", age, limit, silence)


def waiting(age: float, silence: float = 0.0) -> Status:
    return Status("waiting", "all_reduce", age, 60.0, silence)


def test_ranks_that_all_compute_are_fine() -> None:
    assert late({0: busy(500), 1: busy(400), 2: waiting(30)}, HOSTS) is None


def test_a_rank_for_which_another_waits() -> None:
    failure = late({0: waiting(61), 1: busy(5), 2: busy(70)}, HOSTS)
    assert failure is not None
    assert (failure.rank, failure.host) == (2, "two")
    assert "has not answered for 70 s (it is in a step); rank 0 waits for it in all_reduce" in failure.message


def test_a_rank_that_may_take_longer() -> None:
    assert late({0: waiting(100), 1: busy(100, limit=1800)}, HOSTS) is None


def test_a_rank_that_gets_on_is_waited_for() -> None:
    """In a pipeline the first stage waits for long, while the others go from part to part."""
    assert late({0: waiting(100), 1: busy(2), 2: waiting(1)}, HOSTS) is None


def test_ranks_that_wait_for_each_other() -> None:
    failure = late({0: waiting(61), 1: waiting(61)}, HOSTS)
    assert failure is not None
    assert "all ranks wait for each other" in failure.message


def test_a_silent_rank() -> None:
    assert silent({1: waiting(0, silence=59)}, HOSTS) is None
    failure = silent({1: waiting(0, silence=61)}, HOSTS)
    assert failure is not None
    assert failure.text().startswith("error: rank 1 on one: it has not answered for 61 s\nhint: ")


def test_blocks_nest() -> None:
    activity = StatusRecorder(60.0)
    with activity.busy("loading", 1800.0):
        with activity.waiting("barrier"):
            inner = activity.status()
        assert activity.status().state == "busy"
    assert (inner.state, inner.what, inner.limit) == ("waiting", "barrier", 1800.0)
    assert (activity.status().state, activity.status().limit) == ("idle", 60.0)
