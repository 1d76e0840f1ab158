"""Tiles of attention, and what kernels are launched with."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.executors.cuda.kernels import dependent, tiles
from runtime.executors.cuda.kernels.tiles import decode_tiles, prefill_tiles, split_count
from tests.runtime.executors.cuda.attention_cases import DEVICE

HALF = torch.float16


@pytest.mark.parametrize(("kilobytes", "most"), [(227, 3), (163, 3), (99, 2)])
def test_tiles_fit_into_shared_memory(monkeypatch, kilobytes, most):
    """Those of Hopper, A100 and Ada; a program keeps its queries and, of each stage, keys and values."""
    monkeypatch.setattr(tiles, "shared_memory", lambda device: kilobytes * 2**10)
    bm, bn, _, stages = prefill_tiles(HALF, 2, 256, torch.device(DEVICE))
    assert stages == most
    assert (bm + 2 * stages * bn) * 256 * 2 <= kilobytes * 2**10
    bm, bn, _, stages = prefill_tiles(HALF, 1, 256, torch.device(DEVICE))
    assert (bm + 2 * stages * bn) * 256 * 2 <= kilobytes * 2**10


@given(st.sampled_from([1, 2, 4]), st.integers(4, 256), st.integers(1, 40), st.integers(1, 40))
def test_a_program_of_single_tokens_has_whole_heads_and_tiles(stored, width, kv_heads, group):
    found = decode_tiles(HALF, stored, width, kv_heads, group)
    assert kv_heads % found.keys == 0
    assert found.positions & (found.positions - 1) == 0
    if group == 1:
        rows = found.positions // found.unroll * found.keys
        assert rows * tiles.padded(width) * stored >= found.warps * min(512, tiles.padded(width) * stored)
        assert found.positions % found.unroll == 0
    else:
        assert (found.keys, found.unroll) == (1, 1) and found.group >= group


def test_programs_share_long_sequences_if_there_are_few(monkeypatch):
    monkeypatch.setattr(tiles, "multiprocessors", lambda device: 132)
    counts = {size: split_count(*size, torch.device(DEVICE)) for size in ((1, 16, 10), (1, 16, 4096), (1000, 16, 4096))}
    assert counts[1, 16, 10] == counts[1000, 16, 4096] == 1
    assert counts[1, 16, 4096] in (8, 16, 32)


@pytest.mark.parametrize(("capability", "early"), [((8, 0), False), ((9, 0), True), ((10, 0), True)])
def test_kernels_start_early_from_hopper_on(monkeypatch, capability, early):
    monkeypatch.setattr(dependent, "capability", lambda device: capability)
    assert dependent.launch_options(torch.device(DEVICE)) == {"EARLY": early, "launch_pdl": early}
    monkeypatch.setattr(dependent, "ENABLED", False)
    assert not any(dependent.launch_options(torch.device(DEVICE)).values())
