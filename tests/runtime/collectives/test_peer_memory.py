import platform

import pytest

from runtime.collectives import peer_memory
from runtime.collectives.peer_memory import CudaDriver, Pieces

HERE = platform.node()


class Library:
    """A driver that shares no memory, and says which calls it got; those in `fails` give an error."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.calls = fails, list[str]()

    def __getattr__(self, name: str) -> object:
        def call(*arguments: object) -> int:
            self.calls.append(name)
            if name in ("cuMemAlloc_v2", "cuIpcOpenMemHandle_v2"):
                arguments[0]._obj.value = 4096 if name == "cuMemAlloc_v2" else 8192  # type: ignore[attr-defined]
            return 1 if name == self.fails else 0

        return call


def pieces(library: Library | None, monkeypatch: pytest.MonkeyPatch) -> Pieces:
    def load() -> CudaDriver:
        if library is None:
            raise OSError("there is no libcuda.so.1")
        return CudaDriver(library)

    monkeypatch.setattr(peer_memory.CudaDriver, "load", load)
    return Pieces()


def test_own_memory_and_that_of_others_is_opened_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    found = pieces(library, monkeypatch)
    handle = found.allocate(64)
    assert handle is not None
    assert (found.open(HERE, handle.hex(), True), found.open(HERE, handle.hex(), False)) == (4096, 8192)
    found.close()
    assert library.calls[-2:] == ["cuIpcCloseMemHandle", "cuMemFree_v2"]
    assert library.calls.count("cuIpcOpenMemHandle_v2") == 1


@pytest.mark.parametrize("fails", ["cuMemAlloc_v2", "cuIpcGetMemHandle"])
def test_memory_that_cannot_be_shared_has_no_handle(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pieces(Library(fails), monkeypatch).allocate(64) is None


def test_memory_that_a_rank_cannot_address_has_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = bytes(64).hex()
    assert pieces(Library("cuIpcOpenMemHandle_v2"), monkeypatch).open(HERE, handle, False) == 0
    assert pieces(Library(), monkeypatch).open("another host", handle, False) == 0
    assert pieces(Library(), monkeypatch).open(HERE, None, False) == 0


def test_without_a_driver_nothing_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    found = pieces(None, monkeypatch)
    assert found.allocate(64) is None
    found.close()
