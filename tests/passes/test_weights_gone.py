"""Graphs alone, without their weights: what needs none runs, and what needs some says so."""

from dataclasses import replace

import pytest

import llmc
from compiler.errors import WeightsGoneError
from compiler.passes.quant.calibration.source import CalibrationSource
from tests.paths import MODELS


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return replace(llmc.lift(MODELS / "opt-tiny"), root=str(tmp_path_factory.mktemp("nothing")))


@pytest.mark.parametrize(
    "passes",
    [
        *("merge-linears,fuse-attention,cleanup,cache=paged", "dtype=bfloat16", "tp=2,pp=2,embed=vocab"),
        *("quant=int8", "quant=int4:group=32", "quant=fp8:act=token"),
    ],
)
def test_passes_that_need_no_weights_run_on_a_graph_alone(alone, passes):
    assert llmc.optimize(alone, passes).graph.ops


@pytest.mark.parametrize("passes", ["quant=awq", "kv=int8", "quant=gptq"])
def test_a_pass_that_needs_weights_names_itself_and_the_op(alone, passes):
    name = passes.partition("=")[0]
    with (
        CalibrationSource(lambda text: [ord(each) % 1000 for each in text]).active(),
        pytest.raises(WeightsGoneError) as e,
    ):
        llmc.optimize(alone, passes)
    assert e.value.message == (
        f"the pass {name!r} needs weights: const %embed.weight from model.decoder.embed_tokens: cannot read tensor "
        f"'model.decoder.embed_tokens.weight' from {alone.root}/model.safetensors: No such file or directory"
    )
    assert e.value.hint is not None
    assert "restore the file or lift again" in e.value.hint
