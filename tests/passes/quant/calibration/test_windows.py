"""How many calibration windows run at once."""

import pytest
import torch

import llmc
from compiler.errors import PassError
from compiler.ir.interpreter import Interpreter
from compiler.passes.quant.calibration.windows import batch_size, window_logits
from tests.paths import MODELS


def graph(**limits):
    return llmc.lift(MODELS / "mpt-tiny", **limits)  # 4 heads


@pytest.mark.parametrize(("length", "count"), [(2, 8), (512, 8), (1448, 8), (2048, 4), (4096, 1), (100_000, 1)])
def test_longer_windows_run_fewer_at_a_time(length, count):
    found = batch_size(graph(max_batch=8), length)
    assert found == count
    assert count in (1, 8) or count * 4 * length**2 <= 2**26


def test_no_more_than_the_graph_takes():
    assert batch_size(graph(max_batch=3), 512) == 3


def test_logits_count_where_they_are_wanted(monkeypatch):
    monkeypatch.setattr("compiler.passes.quant.calibration.windows._LOGITS", 512 * 1024 * 2)
    assert batch_size(graph(max_batch=8), 512) == 8
    assert batch_size(graph(max_batch=8), 512, logits=True) == 2
    windows = torch.ones(5, 512, dtype=torch.int32)
    assert [len(part) for part in window_logits(graph(max_batch=8), windows, torch.device("cpu"))] == [2, 2, 1]


def test_missing_memory_is_an_error_with_the_mend(monkeypatch):
    def no_memory(*given):
        raise MemoryError

    monkeypatch.setattr(Interpreter, "evaluate", no_memory)
    with pytest.raises(PassError, match="no memory to calibrate with 5 windows of 4 tokens") as raised:
        list(window_logits(graph(), torch.ones(5, 4, dtype=torch.int32), torch.device("cpu")))
    assert "--calib-length" in str(raised.value.hint)
