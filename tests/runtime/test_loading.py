"""Loading engines that only TensorRT was built for, on a machine without a GPU."""

import warnings
from pathlib import Path

import pytest
import torch

import llmc
from compiler.errors import EngineError

pytest.importorskip("tensorrt_rtx")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
MODEL = Path(__file__).parents[2] / "examples" / "models" / "opt-tiny"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    place = tmp_path_factory.mktemp("engines") / "engine"
    llmc.compile(MODEL, place, target="tensorrt-rtx", dtype="float32", max_batch=2, max_input=8, max_seq=16)
    return place


def test_auto_emulates_with_a_note(engine) -> None:
    notes: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = llmc.load(engine, note=notes.append)
    assert loaded.executor.name == "emulator"
    assert len(notes) == 1 and "emulated on the CPU, which is slow" in notes[0]
    with pytest.warns(UserWarning, match="emulated on the CPU"):
        llmc.load(engine)


def test_an_executor_that_was_asked_for_needs_no_note(engine) -> None:
    llmc.load(engine, executor="emulator", note=pytest.fail)


def test_the_interpreter_runs_the_graph_beside_a_tensorrt_engine(engine) -> None:
    interpreted, emulated = (llmc.load(engine, executor=name) for name in ("interpreter", "emulator"))
    prompts = [[5, 6, 7], [8]]
    assert [c.token_ids for c in interpreted.generate(prompts, max_new_tokens=8)] == [
        c.token_ids for c in emulated.generate(prompts, max_new_tokens=8)
    ]


def test_torch_needs_files_of_its_own(engine) -> None:
    with pytest.raises(EngineError, match="not built for the target 'torch'; it was built for: tensorrt-rtx"):
        llmc.load(engine, executor="torch")
