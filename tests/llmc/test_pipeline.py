"""Pipelines in Python: texts, passes, and lists of both."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import llmc
from compiler.errors import PassError
from compiler.ir.graph import Graph
from compiler.passes import ChangeDType, Quantize, TensorParallel, cleanup
from llmc.pipeline import compose, read_passes
from runtime.engine_dir.engine_folder import open_engine
from tests.paths import MODELS

MODEL = MODELS / "opt-tiny"


def mark_it(graph: Graph) -> Graph:
    """A pass of the user's own that is not registered."""
    return replace(graph, name="marked")


def test_a_list_of_passes_is_the_pipeline_that_its_text_is() -> None:
    text = "dtype=float32,tp=2,cleanup"
    assert read_passes([ChangeDType("f32"), "tp=2", cleanup]) == read_passes(text)
    assert read_passes(("dtype=f32,tp=2", cleanup)) == read_passes(text)
    assert read_passes([]) == read_passes("") == ()
    # The automatic passes come after those of a list, and not again if it has them.
    assert compose([cleanup, "fuse-attention=off"], None) == compose("cleanup,fuse-attention=off", None)


def test_prompts_come_after_the_type_and_before_the_users_passes() -> None:
    prompts: dict[str, str | Path] = {"a": "one", "b": Path("two")}
    assert compose("cleanup,tp=2,merge-linears=off,fuse-attention=off", "float32", prompts) == read_passes(
        "dtype=float32,prompts=one+two:tasks=a+b,cleanup,tp=2,merge-linears=off,fuse-attention=off"
    )
    with pytest.raises(PassError, match="not a mapping"):
        compose("", None, ["one"])  # type: ignore[arg-type]


def test_compiling_takes_a_list_and_stores_its_canonical_text(tmp_path: Path) -> None:
    compiled = llmc.compile(MODEL, tmp_path / "engine", passes=[TensorParallel(2), mark_it, "dce"], target="torch")
    manifest = open_engine(compiled.path).manifest
    assert manifest.pipeline == "tp=2,mark-it,dce,merge-linears,fuse-attention,cleanup"
    assert manifest.mesh.tp == 2
    assert (compiled.path / "rank0.ir").read_text().startswith("graph marked")
    graph = llmc.lift(MODEL)
    assert llmc.optimize(graph, [mark_it, "dce"]).canonical == "mark-it,dce"


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        ([Quantize], "passes holds the class Quantize, not a pass\nhint: make one of it: Quantize(...)"),
        ([3], "passes holds 3, which is no pass\nhint: give functions of a graph, or texts such as 'tp=2'"),
        ([None], "passes holds None, which is no pass"),
        (mark_it, "not a list\nhint: write a list, even of one pass: passes=[...]"),
        (7, "passes is 7, not a list"),
        (["tp"], "the pass 'tp' needs a value: tp=int"),
    ],
)
def test_what_is_no_pass_is_named(tmp_path: Path, passes: Any, message: str) -> None:
    with pytest.raises(llmc.LlmcError, match=re.escape(message)):
        llmc.compile(MODEL, tmp_path / "engine", passes=passes)
    assert not (tmp_path / "engine").exists()
