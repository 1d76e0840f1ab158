"""Mistakes in the code of plug-ins are named with the op, the file and the line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from compiler.errors import GraphError, LlmcError, PluginError, RequestError
from compiler.plugins import blamed, load_plugins
from tests.cli.llmc_command import llmc
from tests.paths import MODELS
from tests.registrations import forgotten

MODEL = MODELS / "opt-tiny"
SMALL = ("--dtype", "float32", "--max-batch", 2, "--max-seq", 32, "--batch-sizes", "2", "--prompt-sizes", "32")

# An op with all its parts, each of which a test replaces by one with a mistake.
PARTS = {
    "op": """
        @op
        def odd(x: TensorType) -> TensorType:
            "Nothing."
            return x
        """,
    "evaluator": """
        @evaluates("odd")
        def _evaluate(attrs, sizes, x):
            return x
        """,
    "torch": """
        @lowers("odd")
        def _lower(state, op):
            return state.ref(op.operands[0])
        """,
    "tensorrt": """
        @emits("odd")
        def _emit(e, op):
            return e.layer(e.network.add_identity(e[op.operands[0]]))
        """,
    "sharding rule": """
        @sharding_rule("odd")
        def _place(factors):
            factors.aligned(factors.operands[0], factors.results[0])
        """,
    "pass": """
        @llmc.register_pass("odd")
        def put(graph):
            "Puts it after every activation."
            return sweep(graph, lambda op, b: b.odd(b.relu(*op.operands)) if op.kind.name == "relu" else None)


        @llmc.register_pass("odd-weights")
        def put_weights(graph):
            "Puts it after every constant."
            def visit(op, b):
                return b.odd(b.const(data=op.attrs["data"])) if op.kind.name == "const" else None
            return sweep(graph, visit)
        """,
}
HEAD = """
import torch
import llmc
from compiler.backend_trt.emission import emits
from compiler.frontends import frontend
from compiler.ir.evaluators.core import evaluates
from compiler.ir.op import op
from compiler.ir.patterns import P
from compiler.ir.rewrite import sweep
from compiler.ir.rules import apply_rules, rule
from compiler.ir.types import TensorType
from compiler.passes.parallel import sharding_rule
from runtime.executors.torch.lowering import lowers
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Writes a plug-in with the parts above, but for those given; the line with the mistake ends in `# here`."""

    def write(**parts: str) -> Path:
        path = tmp_path / "odd.py"
        path.write_text("\n\n".join([HEAD, *(dedent(part) for part in {**PARTS, **parts}.values())]))
        return path

    with forgotten():
        yield write


def place(path: Path) -> str:
    """`FILE, line N` of the mistake."""
    lines = path.read_text().split("\n")
    return f"{path}, line {next(i for i, line in enumerate(lines, 1) if line.endswith('# here'))}"


def fails(*arguments: object) -> str:
    """The message of a command that fails as one of the user's mistakes does, not as a bug of llmc."""
    result = llmc(*arguments)
    assert result.status == 2, result.err
    return next(line for line in result.err.splitlines() if line.startswith("error: "))


OF_STEPS = r"odd %layers\.0\.mlp\.act from model\.decoder\.layers\.0(?: \(changed by .*\))?"
OF_WEIGHTS = r"odd %positions\.table\.stored from model\.decoder\.embed_positions(?: \(changed by .*\))?"
FAULTS: dict[str, tuple[dict[str, str], tuple[object, ...], str]] = {
    "type rule": (
        {"op": '@op\ndef odd(x: TensorType) -> TensorType:\n    "It."\n    return x.shape[7]  # here\n'},
        ("--passes", "odd"),
        r"the type rule of odd\(f32\[B,S,512\]\) fails: IndexError: tuple index out of range \(PLACE\)",
    ),
    "type rule of nothing": (
        {"op": '@op  # here\ndef odd(x: TensorType) -> TensorType:\n    "It."\n'},
        ("--passes", "odd"),
        r"the type rule of odd returned None \(PLACE\)",
    ),
    "evaluator of weights": (
        {"evaluator": '@evaluates("odd")\ndef _(attrs, sizes, x):\n    return x.nothing  # here\n'},
        ("--passes", "odd-weights"),
        rf"the evaluator of {OF_WEIGHTS} fails: AttributeError: .*nothing.* \(PLACE\)",
    ),
    "evaluator of another shape": (
        {"evaluator": '@evaluates("odd")  # here\ndef _(attrs, sizes, x):\n    return x[:-1]\n'},
        ("--passes", "odd-weights"),
        (
            rf"the evaluator of {OF_WEIGHTS} gives \[513, 128\] where its type rule says f16\[514,128\], "
            r"here \[514, 128\] \(PLACE\)"
        ),
    ),
    "evaluator of nothing": (
        {"evaluator": '@evaluates("odd")  # here\ndef _(attrs, sizes, x):\n    pass\n'},
        ("--passes", "odd-weights"),
        rf"the evaluator of {OF_WEIGHTS} gives a NoneType where its type rule says .* \(PLACE\)",
    ),
    "TensorRT rule": (
        {"tensorrt": '@emits("odd")\ndef _(e, op):\n    return e.network.add_nothing()  # here\n'},
        ("--passes", "odd", "--target", "tensorrt-rtx"),
        rf"the TensorRT rule of {OF_STEPS} fails: AttributeError: .*add_nothing.* \(PLACE\)",
    ),
    "TensorRT rule of nothing": (
        {"tensorrt": '@emits("odd")  # here\ndef _(e, op):\n    pass\n'},
        ("--passes", "odd", "--target", "tensorrt-rtx"),
        rf"the TensorRT rule of {OF_STEPS} returned None \(PLACE\)",
    ),
    "sharding rule": (
        {
            "sharding rule": """
            @sharding_rule("odd")
            def _(factors):
                factors.aligned(factors.operands[1], 0)  # here
            """
        },
        ("--passes", "odd,tp=2"),
        r"the sharding rule of odd, at %layers\.0\.mlp\.act from .*, fails: IndexError: .* \(PLACE\)",
    ),
    "pass": (
        {"pass": '@llmc.register_pass("odd")\ndef put(graph):\n    "It."\n    return graph.facts["no"]  # here\n'},
        ("--passes", "odd"),
        r"the pass 'odd' fails: KeyError: 'no' \(PLACE\)",
    ),
    "pass that makes a wrong op": (
        {
            "pass": """
            @llmc.register_pass("odd")
            def put(graph):
                "It."
                def visit(op, b):
                    if op.kind.name == "relu":
                        return b.reshape(op.operands[0], shape=(3,))  # here
                return sweep(graph, visit)
            """
        },
        ("--passes", "odd"),
        (
            r"the pass 'odd' fails: the visit of relu %layers\.0\.mlp\.act from .* fails: "
            r"reshape\(f32\[B,S,512\]\): .* \(PLACE\)"
        ),
    ),
    "requires": (
        {
            "pass": """
            from dataclasses import dataclass

            @llmc.register_pass("odd")
            @dataclass(frozen=True)
            class Odd:
                "It."
                def requires(self, graph):
                    return self.nothing  # here
                def __call__(self, graph):
                    return graph
            """
        },
        ("--passes", "odd"),
        r"the pass 'odd' fails: AttributeError: .*nothing.* \(PLACE\)",
    ),
    "options": (
        {
            "pass": """
            from dataclasses import dataclass

            @llmc.register_pass("odd")
            @dataclass(frozen=True)
            class Odd:
                "It."
                size: int = 1
                def __post_init__(self):
                    {}[self.size]  # here
                def __call__(self, graph):
                    return graph
            """
        },
        ("--passes", "odd"),
        r"making the pass 'odd' fails: KeyError: 1 \(PLACE\)",
    ),
    "rule": (
        {
            "pass": """
            @rule(P.relu("x"))
            def broken(match, b):
                return match["x"] + 1  # here


            @llmc.register_pass("odd")
            def put(graph):
                "It."
                return apply_rules(graph, [broken], pass_name="odd")
            """
        },
        ("--passes", "odd"),
        r"the rule 'broken' at relu %layers\.0\.mlp\.act from .* fails: TypeError: .* \(PLACE\)",
    ),
    "an observer in a pass": (
        {
            "pass": """
            from compiler.ir.interpreter import Interpreter

            def observe(op, operands, results):
                raise RuntimeError("I see")  # here


            @llmc.register_pass("odd")
            def put(graph):
                "It."
                ints = lambda *values: torch.tensor(values, dtype=torch.int32)
                inputs = {"token_ids": ints([1]), "past_len": ints(0), "new_len": ints(1), "logit_pos": ints([0])}
                caches = {name: torch.zeros(v.type.sizes({"B": 1, "C": 4})) for name, (v, _) in graph.states().items()}
                Interpreter(graph, observers=[observe])({**inputs, **caches})
                return graph
            """
        },
        ("--passes", "odd"),
        r"the pass 'odd' fails: RuntimeError: I see \(PLACE\)",
    ),
    "torch rule": (
        {"torch": '@lowers("odd")\ndef _(state, op):\n    return state.nothing  # here\n'},
        (),
        rf"the torch rule of {OF_STEPS} fails: AttributeError: .*nothing.* \(PLACE\)",
    ),
    "torch rule that is no expression": (
        {"torch": '@lowers("odd")  # here\ndef _(state, op):\n    return f"torch.sin({state.ref(op.operands[0])}"\n'},
        (),
        rf"the torch rule of {OF_STEPS} gives 'torch\.sin\(.*', which is no expression of Python: .* \(PLACE\)",
    ),
    "torch rule of nothing": (
        {"torch": '@lowers("odd")  # here\ndef _(state, op):\n    pass\n'},
        (),
        rf"the torch rule of {OF_STEPS} gives None, which is no expression of Python: .* \(PLACE\)",
    ),
    "a step": (
        {"torch": '@lowers("odd")  # here\ndef _(state, op):\n    return f"torch.no({state.ref(op.operands[0])})"\n'},
        (),
        (
            rf"the step fails at {OF_STEPS}: AttributeError: .*'no'.*; it runs `layers_0_mlp_act = torch\.no\(.*\)` "
            r"\(PLACE\)"
        ),
    ),
    "a function that a step calls": (
        {
            "torch": """
            def kernel(x):
                return x @ x  # here


            @lowers("odd")
            def _lower(state, op):
                return f"{state.hold('kernel', kernel)}({state.ref(op.operands[0])})"
            """
        },
        (),
        rf"the step fails at {OF_STEPS}: RuntimeError: .*; it runs `layers_0_mlp_act = kernel.*` \(PLACE\)",
    ),
    "a wrong shape": (
        {"torch": '@lowers("odd")  # here\ndef _(state, op):\n    return f"{state.ref(op.operands[0])}[..., :-1]"\n'},
        (),
        (
            rf"the step fails at relu %.*: %layers\.0\.mlp\.act is torch.float32 .*; {OF_STEPS} gave "
            r"\[1, \d+, 511\] where f32\[1,T,512\] is wanted \(PLACE\)"
        ),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_mistake_is_named_with_file_and_line(plugin, tmp_path: Path, fault: str) -> None:
    parts, options, message = FAULTS[fault]
    path, engine = plugin(**parts), tmp_path / "engine"
    compiling = ("compile", MODEL, "-o", engine, "-q", "--plugin", path)
    if options:  # else the mistake is one of running
        found = fails(*compiling, *options, *SMALL)
    else:
        assert llmc(*compiling, "--passes", "odd", *SMALL).status == 0
        found = fails("run", engine, "--plugin", path, "--prompt-ids", "5,6,7", "--max-new-tokens", 2)
    assert re.search(message.replace("PLACE", re.escape(place(path))), found), found


def test_a_familys_frontend(plugin, tmp_path: Path) -> None:
    path = plugin(family='@frontend("odd")\ndef lift(lifting):\n    lifting.config["hidden"]  # here\n')
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "odd"}))
    found = fails("compile", tmp_path, "-o", tmp_path / "engine", "--dummy-weights", "--plugin", path)
    assert re.search(rf"the frontend of 'odd' fails: TypeError: .* \({re.escape(place(path))}\)", found), found


def test_an_evaluator_that_verifying_runs(plugin, tmp_path: Path) -> None:
    path = plugin(evaluator='@evaluates("odd")\ndef _(attrs, sizes, x):\n    return x.nothing  # here\n')
    engine = tmp_path / "engine"
    assert llmc("compile", MODEL, "-o", engine, "-q", "--plugin", path, "--passes", "odd", *SMALL).status == 0
    found = fails("verify", engine, "--plugin", path, "--prompt-ids", "5,6", "--max-new-tokens", 1)
    assert re.search(rf"the evaluator of {OF_STEPS} fails: .* \({re.escape(place(path))}\)", found), found


def test_an_evaluator_with_a_mistake_is_not_folded_in_silence(plugin) -> None:
    from compiler.ir.builder import Builder
    from compiler.ir.dtypes import DType
    from compiler.passes import fold

    path = plugin(evaluator='@evaluates("odd")\ndef _(attrs, sizes, x):\n    return x.nothing  # here\n')
    load_plugins([path])
    b = Builder()
    b.output("y", b.odd(b.literal(dtype=DType.f32, shape=(1,), values=(1.0,))))
    with pytest.raises(PluginError, match=re.escape(place(path))):
        fold(b.build())


def test_mistakes_of_llmc_are_none_of_plugins() -> None:
    """What llmc's own functions raise passes as it is, and is shown as a bug."""
    from compiler.passes import fold

    with pytest.raises(KeyError), blamed(fold, "the pass"):
        raise KeyError("x")


def test_errors_that_are_meant_pass_through() -> None:
    def culprit() -> None:
        raise LlmcError("on purpose")

    with pytest.raises(LlmcError, match=r"^on purpose$"), blamed(culprit, "it"):
        culprit()


def test_a_graph_error_that_code_ran_into_says_where_once() -> None:
    def culprit() -> None:
        raise GraphError("bad op")

    with pytest.raises(GraphError) as caught, blamed(culprit, "the pass"), blamed(culprit, "the rule"):
        culprit()
    assert re.fullmatch(
        r"the pass fails: the rule fails: bad op \(tests/plugins/test_faults\.py, line \d+\)", caught.value.message
    )


def test_memory_that_runs_out_is_nobodys_mistake(plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import llmc as library

    path = plugin(torch='@lowers("odd")\ndef _(state, op):\n    return f"big({state.ref(op.operands[0])})"\n')
    engine = tmp_path / "engine"
    assert llmc("compile", MODEL, "-o", engine, "-q", "--plugin", path, "--passes", "odd", *SMALL).status == 0
    loaded = library.load(engine, executor="torch", device="cpu")

    def big(x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setitem(loaded.executor.program.run.__globals__, "big", big)  # type: ignore[attr-defined]
    with pytest.raises(RequestError, match=r"^there is no memory for a step of 1 x 2 tokens: full"):
        loaded.logits([1, 2])
