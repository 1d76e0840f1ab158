"""How many blocks there is memory for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compiler.errors import RequestError
from runtime.executors import memory
from runtime.executors.memory import BlockMemory, check_pools, most_blocks


def test_ranks_of_one_memory_share_it_and_the_smallest_counts() -> None:
    assert most_blocks([BlockMemory("a", 1000, 10)]) == 80
    assert most_blocks([BlockMemory("a", 1000, 10), BlockMemory("a", 990, 10)]) == 39
    assert most_blocks([BlockMemory("a", 1000, 10), BlockMemory("b", 100, 4)]) == 20
    assert most_blocks([BlockMemory("a", 10, 10)]) == 0
    assert most_blocks([BlockMemory("a", 1000, 10, 50)]) == 95
    assert most_blocks([BlockMemory("a", 1000, 10, 900)]) == 80


def test_memory_that_is_not_known_limits_nothing() -> None:
    assert most_blocks([BlockMemory("a", None, 10)]) is None
    assert most_blocks([BlockMemory("a", None, 10), BlockMemory("b", 100, 4)]) == 20
    assert most_blocks([]) is None


def test_the_systems_own_numbers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "meminfo"
    table.write_text("MemTotal:  9 kB\nMemFree:  1 kB\nMemAvailable:      7 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", table)
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert BlockMemory.on(torch.device("cpu"), 3)[1:] == (7 * 1024, 3, None)
    table.write_text("MemTotal:  9 kB\n")
    assert BlockMemory.on(torch.device("cpu"), 3).free is None
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    assert BlockMemory.on(torch.device("cpu"), 3).free is None


def test_a_containers_limit_counts_if_it_is_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "meminfo"
    table.write_text("MemAvailable:      7 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", table)
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    for limit, free in (("5000", 5000 - 3000 + 1000), ("1500", 0), ("20000", 7 * 1024), ("max", 7 * 1024)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text("3000\n")
        (tmp_path / "memory.stat").write_text("anon 2000\nfile 1000\nfile_mapped 7\n")
        assert BlockMemory.on(torch.device("cpu"), 3).free == free


def test_pools_that_do_not_fit_on_a_gpu_say_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 5_000_000)
    check_pools(100, 64, 5_000_000, torch.device("cuda", 1))
    check_pools(100, 64, 20_000_000, torch.device("cpu"))
    with pytest.raises(RequestError, match="caches of 6400 tokens take 20 MB, but cuda:1 has 5 MB free") as raised:
        check_pools(100, 64, 20_000_000, torch.device("cuda", 1))
    assert str(raised.value.hint).startswith("lower --cache-tokens (cache_tokens) to 1600 or less, ")
