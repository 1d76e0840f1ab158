"""`llmc ops`."""

import json
import re
from pathlib import Path

import pytest

from compiler.ir.op import OPS
from tests.cli.llmc_command import llmc
from tests.paths import ROOT
from tests.registrations import forgotten

PLUGIN = '''
from compiler.ir.evaluators.core import evaluates
from compiler.ir.op import op
from compiler.ir.types import TensorType

@op
def halve(x: TensorType, *more: TensorType, by: int = 1) -> TensorType:
    """`x / 2 ** by`."""
    return x

@evaluates("halve")
def _halve(attrs, sizes, x):
    return x / 2 ** attrs["by"]
'''


def test_ops_are_listed_with_operands_attributes_and_meaning():
    out = llmc("ops").out
    assert re.search(r"^gelu\(x, tanh=false\) +`x \* Phi\(x\)`", out, re.MULTILINE)
    assert re.search(r"^paged_attention\(q, .*\)\n {20,}The `attention` of each token", out, re.MULTILINE)
    listed = json.loads(llmc("ops", "--json").out)
    assert [op["name"] for op in listed] == sorted(OPS)


def test_an_op_is_shown_with_where_its_parts_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    out = llmc("ops", "rotary").out
    assert "interleaved  bool (default false)" in out
    for part, file in (
        ("type rule", "compiler/ir/ops/nn.py"),
        ("evaluator", "compiler/ir/evaluators/nn.py"),
        ("torch rule", "runtime/executors/torch/rules.py"),
        ("TensorRT rule", "compiler/backend_trt/rules/attention.py"),
        ("TensorRT support", "compiler/backend_trt/support/declared.py"),
        ("sharding rule", "compiler/passes/parallel/sharding_rules.py"),
    ):
        found = re.search(rf"^  {part} +{re.escape(file)}:(\d+)$", out, re.MULTILINE)
        assert found, out
        near = "\n".join((ROOT / file).read_text().splitlines()[int(found[1]) - 1 :][:2])
        assert "rotary" in near


def test_an_op_of_a_plugin_is_shown_with_what_it_lacks(tmp_path: Path):
    file = tmp_path / "halving.py"
    file.write_text(PLUGIN)
    with forgotten():
        (op,) = json.loads(llmc("ops", "halve", "--plugin", file, "--json").out)
        out = llmc("ops", "halve", "--plugin", file).out
    assert (op["plugin"], op["doc"], op["tensorrt_takes"]) == ("halving.py", "`x / 2 ** by`.", None)
    assert op["operands"] == [
        {"name": "x", "required": True, "repeated": False},
        {"name": "more", "required": False, "repeated": True},
    ]
    assert op["attributes"] == [{"name": "by", "type": "int", "required": False, "default": "1"}]
    parts = {part["name"]: part for part in op["parts"]}
    assert (parts["evaluator"]["file"], parts["evaluator"]["line"]) == (str(file), 11)
    assert parts["torch rule"]["file"] is None
    assert "llmc.lowers" in parts["torch rule"]["reason"]
    assert "halve(x, more..., by=1) (from the plug-in halving.py)" in out
    assert "each rank needs all of its operands" in " ".join(out.split())


def test_an_op_that_does_not_exist_is_an_error():
    llmc("ops", "gelo").failed("there is no op 'gelo'; did you mean 'gelu'?")
    assert "'relu' is one argument too many: name one op, or none" in llmc("ops", "gelu", "relu").err
