"""Memory in huge pages."""

from runtime.executors.cpu.huge_pages import HugePages


def test_pieces_begin_at_cache_lines_and_lie_side_by_side() -> None:
    memory = HugePages()
    first, second = memory.take(100), memory.take(64)
    assert first.data_ptr() % (2 << 20) == 0
    assert second.data_ptr() == first.data_ptr() + 128
    assert first.numel() == 100
    assert not first.any()


def test_piece_that_does_not_fit_begins_a_new_chunk() -> None:
    memory = HugePages()
    memory.take(100)
    large = memory.take((64 << 20) + 1)
    large[-1] = 1
    assert large.data_ptr() % (2 << 20) == 0
    assert memory.take(10).data_ptr() % 64 == 0
