"""An engine whose files are not those of its manifest is refused."""

from pathlib import Path

import pytest

from compiler.errors import EngineError
from runtime.engine_dir.engine_folder import open_engine
from tests.runtime.engines import write_engine


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    write_engine(tmp_path / "engine")
    return tmp_path / "engine"


def refusal(engine: Path, **options) -> str:
    with pytest.raises(EngineError) as raised:
        open_engine(engine, **options)
    assert raised.value.hint
    return raised.value.message


def test_an_intact_engine_opens(engine: Path) -> None:
    read: list[int] = []
    folder = open_engine(engine, advance=read.append)
    assert folder.rank("torch")["weights"] == "rank0.safetensors"
    assert sum(read) == sum(entry.bytes for entry in folder.manifest.files.values())


def test_a_missing_file_is_named(engine: Path) -> None:
    (engine / "rank0.ir").unlink()
    assert "rank0.ir is missing" in refusal(engine)
    assert "rank0.ir is missing" in refusal(engine, verify=False)


def test_a_file_of_another_size_is_named(engine: Path) -> None:
    (engine / "rank0.safetensors").write_bytes(b"weigh")
    assert "rank0.safetensors has 5 bytes; the manifest says 7" in refusal(engine, verify=False)


def test_a_changed_file_is_named_unless_verification_is_off(engine: Path) -> None:
    (engine / "rank0.safetensors").write_bytes(b"Weights")
    assert "rank0.safetensors is damaged or was changed" in refusal(engine)
    open_engine(engine, verify=False)


def test_a_target_that_was_not_built(engine: Path) -> None:
    with pytest.raises(EngineError, match="was not built for the target 'tensorrt'; it was built for: torch"):
        open_engine(engine).rank("tensorrt")
