"""NCCL: how it is called, on a stand-in; and, on a machine with two GPUs, what it computes."""

import ctypes
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compiler.errors import TargetError
from runtime.collectives.nccl_communicator import NcclCommunicator
from runtime.collectives.nccl_library import Nccl, UniqueId
from tests.paths import ROOT

COMM, STREAM = 0xC0FFEE, 0x57


class Function:
    """A C function that ctypes checks the arguments of, and that keeps them."""

    def __init__(self, name: str, library: "Library") -> None:
        self.name, self.library = name, library
        self.argtypes: list[Any] = []
        self.restype: Any = None

    def __call__(self, *arguments: Any) -> Any:
        if self.name == "ncclGetErrorString":
            return b"unhandled cuda error"
        self.library.calls.append((self.name, *arguments))
        if self.library.code or self.name == "ncclGetUniqueId":
            return self.library.code
        prototype = ctypes.CFUNCTYPE(self.restype, *self.argtypes)
        return prototype(lambda *given: self.library.serve(self.name, given))(*arguments)


class Library:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.code = 0
        self.functions: dict[str, Function] = {}

    def __getattr__(self, name: str) -> Function:
        return self.functions.setdefault(name, Function(name, self))

    def serve(self, name: str, arguments: tuple[Any, ...]) -> int:
        if name == "ncclCommInitRank":
            assert isinstance(arguments[2], UniqueId)
            arguments[0][0] = ctypes.c_void_p(COMM)
        return 0


@pytest.fixture
def library() -> Library:
    return Library()


@pytest.fixture
def comm(library: Library, monkeypatch: pytest.MonkeyPatch) -> NcclCommunicator:
    stream = SimpleNamespace(cuda_stream=STREAM)
    cuda = SimpleNamespace(device=lambda device: nullcontext(), current_stream=lambda device: stream)
    monkeypatch.setattr(torch, "cuda", cuda)
    group = SimpleNamespace(rank=0, size=2, broadcast_object=lambda value: value)
    return NcclCommunicator(Nccl(library), group, torch.device("cuda:0"))  # type: ignore[arg-type]


def test_operations_are_put_on_the_current_stream(library: Library, comm: NcclCommunicator) -> None:
    x = torch.ones(3, 4, dtype=torch.bfloat16)
    library.calls.clear()
    assert comm.all_reduce(x) is x
    assert comm.all_max(x) is x
    comm.send(x, 1)
    comm.recv(x, 1)
    comm.broadcast(x, 1)
    at = x.data_ptr()
    assert library.calls == [
        ("ncclAllReduce", at, at, 12, 9, 0, COMM, STREAM),
        ("ncclAllReduce", at, at, 12, 9, 2, COMM, STREAM),
        ("ncclSend", at, 12, 9, 1, COMM, STREAM),
        ("ncclRecv", at, 12, 9, 1, COMM, STREAM),
        ("ncclBroadcast", at, at, 12, 9, 1, COMM, STREAM),
    ]


@pytest.mark.parametrize(("axis", "shape"), [(0, (6, 4)), (1, (3, 8)), (-1, (3, 8))])
def test_gathered_along_an_axis(library: Library, comm: NcclCommunicator, axis: int, shape: tuple[int, ...]) -> None:
    assert comm.all_gather(torch.ones(3, 4), axis).shape == shape
    assert library.calls[-1][0] == "ncclAllGather"
    assert library.calls[-1][3:] == (12, 7, COMM, STREAM)


def test_tensorrt_gets_a_capsule_without_a_name(comm: NcclCommunicator) -> None:
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.argtypes, pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
    assert pointer(comm.capsule(), None) == COMM


def test_errors_of_nccl_are_said(library: Library, comm: NcclCommunicator) -> None:
    library.code = 1
    with pytest.raises(TargetError, match=r"ncclAllReduce failed: unhandled cuda error \(1\)"):
        comm.all_reduce(torch.ones(2))
    with pytest.raises(TargetError, match=r"no type for torch.complex64"):
        comm.all_reduce(torch.ones(2, dtype=torch.complex64))


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus() -> None:
    mpirun = Path(sys.executable).parent / "mpirun"
    command = [
        str(mpirun),
        "-n",
        "2",
        "--allow-run-as-root",
        sys.executable,
        "-m",
        "tests.runtime.collectives.gpu_ranks",
    ]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=120)
    assert done.stdout == "right\n", done.stderr
