"""Loading engines that were built for TensorRT, on a machine without a GPU."""

import warnings

import pytest
import torch

import llmc
from tests.paths import MODELS

pytest.importorskip("tensorrt_rtx")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
MODEL = MODELS / "opt-tiny"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    place = tmp_path_factory.mktemp("engines") / "engine"
    llmc.compile(MODEL, place, target="tensorrt-rtx", dtype="float32", max_batch=2, max_input=8, max_seq=16)
    return place


def test_without_a_gpu_auto_takes_the_kernels_of_the_cpu_and_needs_no_note(engine) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = llmc.load(engine, note=pytest.fail)
    assert loaded.executor.name == "cpu"


def test_every_executor_runs_every_engine(engine) -> None:
    prompts = [[5, 6, 7], [8]]
    loaded = [
        llmc.load(engine, executor=name, note=pytest.fail) for name in ("interpreter", "emulator", "torch", "cpu")
    ]
    interpreted, *others = ([c.token_ids for c in e.generate(prompts, max_new_tokens=8)] for e in loaded)
    assert others == [interpreted] * 3
