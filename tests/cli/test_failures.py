"""What a command says when it fails for a reason that is no error of its own."""

import pytest
import torch
import typer

from llmc.cli.failures import guarded

TORCH = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(TORCH),
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError("too much"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_missing_memory_is_no_bug(capsys: pytest.CaptureFixture[str], error: Exception) -> None:
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as raised:
        guarded(command)()
    assert raised.value.exit_code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: there is not enough memory")
    assert str(error) in said
    assert "hint: " in said
    assert "bug" not in said


def test_anything_else_is_a_bug(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise RuntimeError("something else")

    with pytest.raises(typer.Exit) as raised:
        guarded(command)()
    assert raised.value.exit_code == 1
    assert "this is a bug in llmc" in capsys.readouterr().err
