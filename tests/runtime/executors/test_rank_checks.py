"""What is wrong with a machine is said before weights are read, in words that name the mend."""

from __future__ import annotations

import pytest
import torch

import llmc
from compiler.errors import TargetError
from runtime.executors import rank_checks
from runtime.executors.rank_checks import check_weights, why_no_gpu
from runtime.executors.torch.device import find_device
from tests.paths import MODELS

OLD_DRIVER = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
    "and installing a new version"
)


@pytest.fixture
def torch_says(monkeypatch: pytest.MonkeyPatch):
    """There is no GPU, and torch says why."""

    def say(text: str) -> None:
        def init() -> None:
            raise RuntimeError(text)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "init", init)

    return say


def test_weights_that_do_not_fit_are_said_with_their_bytes_before_they_are_read(monkeypatch) -> None:
    graph = llmc.lift(MODELS / "gptj-tiny")
    size = 2 * int(str(graph.facts["parameters"]))
    monkeypatch.setattr(rank_checks, "free_bytes", lambda device: 1_000_000)
    check_weights(graph, torch.device("cpu"))
    with pytest.raises(TargetError, match=f"memory of cuda: they take {size / 1e6:.3g} MB, and 1 MB is free") as raised:
        check_weights(graph, torch.device("cuda"))
    assert "tp=2" in str(raised.value.hint)
    monkeypatch.setattr(rank_checks, "free_bytes", lambda device: size + 1000)
    check_weights(graph, torch.device("cuda"))


def test_a_driver_that_is_too_old_is_named(torch_says) -> None:
    torch_says(OLD_DRIVER)
    said = "The NVIDIA driver on your system is too old (found version 11040)"
    assert why_no_gpu() == why_no_gpu(odd=True) == said
    with pytest.raises(TargetError) as raised:
        find_device("cuda")
    assert raised.value.message == f"this machine has no CUDA GPU that torch can use: {said}"
    assert "driver" in str(raised.value.hint)


@pytest.mark.parametrize("text", ["Found no NVIDIA driver on your system. Please check", "No CUDA GPUs are available"])
def test_a_machine_without_a_gpu_is_nothing_odd(torch_says, text: str) -> None:
    torch_says(text)
    assert why_no_gpu(odd=True) == ""
    assert why_no_gpu() == text.partition(". ")[0]
