"""What an op lacks is found when its engine is compiled, before any weight is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import llmc
from compiler.errors import TargetError
from compiler.ir.evaluators.core import evaluates
from compiler.ir.op import op
from compiler.ir.rewrite import sweep
from compiler.ir.types import TensorType
from runtime.executors.torch.lowering import lowers
from tests.paths import MODELS
from tests.registrations import forgotten

MODEL = MODELS / "opt-tiny"


@pytest.fixture(autouse=True)
def bare() -> Iterator[None]:
    """An op without any part but its type rule, and passes that put it into a model."""
    with forgotten():

        @op
        def bare(x: TensorType) -> TensorType:
            """Nothing."""
            return x

        @llmc.register_pass("bare")
        def bare_activations(graph):
            return sweep(
                graph, lambda op, b: b.bare(*op.operands) if op.kind.name == "relu" else None, pass_name="bare"
            )

        @llmc.register_pass("bare-weights")
        def bare_weights(graph):
            def visit(op, b):
                return b.bare(b.const(data=op.attrs["data"])) if op.kind.name == "const" else None

            return sweep(graph, visit, pass_name="bare-weights")

        yield


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights must not be read."""
    # What imports the function comes first: it is imported here, and must keep the real one afterwards.
    for module in ("compiler.store.ranks", "compiler.ir.constants"):
        monkeypatch.setattr(f"{module}.stream_constants", lambda graph: pytest.fail("weights are read"))


def refusal(place: Path, passes: str, target: str = "torch") -> TargetError:
    with pytest.raises(TargetError) as caught:
        llmc.compile(MODEL, place / "engine", passes=passes, target=target, max_seq=32)
    assert not list(place.iterdir())
    return caught.value


EVALUATOR = "@llmc.evaluates('bare')"
RULE = "@llmc.lowers('bare')"
OF_STEPS = "bare %layers.0.mlp.act from model.decoder.layers.0 (changed by bare) has no "


@pytest.mark.parametrize("target", ["torch", "tensorrt-rtx"])
@pytest.mark.parametrize("passes", ["bare", "bare,tp=2", "bare,pp=2", "bare,quant=gptq"])
def test_both_parts_are_missing(tmp_path: Path, unread, passes: str, target: str) -> None:
    error = refusal(tmp_path, passes, target)
    assert error.message.startswith("bare %layers.0.mlp.act from model.decoder.layers.0 (changed by bare")
    assert error.message.endswith(") has no evaluator and no rule of the torch executor")
    assert error.hint == f"register {EVALUATOR}, {RULE}, or rewrite it into other ops with a pass"


def test_the_evaluator_is_missing(tmp_path: Path, unread) -> None:
    lowers("bare")(lambda state, op: state.ref(op.operands[0]))
    error = refusal(tmp_path, "bare")
    assert error.message == f"{OF_STEPS}evaluator"
    assert error.hint == f"register {EVALUATOR}, or rewrite it into other ops with a pass"


def test_the_rule_is_missing(tmp_path: Path, unread) -> None:
    evaluates("bare")(lambda attrs, sizes, x: x)
    error = refusal(tmp_path, "bare")
    assert error.message == f"{OF_STEPS}rule of the torch executor"
    assert error.hint == f"register {RULE}, or rewrite it into other ops with a pass"


def test_an_op_that_computes_weights_needs_an_evaluator_and_no_rule(tmp_path: Path) -> None:
    error = refusal(tmp_path, "bare-weights")
    assert (
        error.message == "bare %embed.weight from model.decoder.embed_tokens (changed by bare-weights) has no evaluator"
    )
    evaluates("bare")(lambda attrs, sizes, x: x)
    assert llmc.compile(MODEL, tmp_path / "engine", passes="bare-weights", target="torch", max_seq=32).path.is_dir()
