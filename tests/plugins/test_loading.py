"""Plug-ins: Python files, and installed packages by their entry points."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import llmc
from compiler.backend_trt.emission import RULES as TENSORRT_RULES
from compiler.errors import ConfigError, GraphError, LlmcError, PassError, PluginError, TargetError
from compiler.frontends import families
from compiler.frontends.registry import FAMILIES, family_of
from compiler.ir.evaluators.core import EVALUATORS, evaluator
from compiler.ir.op import OPS, op_kind
from compiler.passes import describe_passes, find_pass, load_plugin, parse_pipeline, run_pipeline
from compiler.passes.parallel.graph_factors import SHARDING_RULES
from compiler.passes.registry import PASSES
from compiler.plugins import Plugin, Registry, load_plugins
from compiler.targets import TARGETS
from runtime.executors.torch.lowering import RULES as TORCH_RULES
from tests.passes.checks import body_of, graph_of
from tests.registrations import forgotten

REGISTRIES: dict[str, Registry[Any]] = {
    "op": OPS,
    "evaluator": EVALUATORS,
    "torch": TORCH_RULES,
    "tensorrt": TENSORRT_RULES,
    "sharding rule": SHARDING_RULES,
    "pass": PASSES,
    "family": FAMILIES,
}
GRAPH = """
    input x: f32[B,4]
    .:
      %a: f32[B,4] = relu(%x)
      %y: f32[B,4] = tanh(%a)
    output y = %y
    """
# Registers something under its own name in every registry.
EVERYTHING = """
    import llmc
    from compiler.backend_trt.emission import emits
    from compiler.frontends import frontend
    from compiler.ir.evaluators.core import evaluates
    from compiler.ir.op import op
    from compiler.ir.types import TensorType
    from compiler.passes.parallel import sharding_rule
    from runtime.executors.torch.lowering import lowers


    @op
    def everything(x: TensorType) -> TensorType:
        "What it is."
        return x


    @evaluates("everything")
    def _compute(attrs, sizes, x):
        return x


    @lowers("everything")
    def _lower(state, op):
        return state.ref(op.operands[0])


    @emits("everything")
    def _emit(e, op):
        return e[op.operands[0]]


    @sharding_rule("everything")
    def _place(factors):
        factors.aligned(factors.operands[0], factors.results[0])


    @llmc.register_pass("everything")
    def _pass(graph):
        return graph


    @frontend("everything", "EverythingForCausalLM")
    def _lift(lifting):
        pass
    """


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    load_plugins()
    with forgotten():
        yield


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "plugin.py") -> Path:
        path = tmp_path / name
        path.write_text(dedent(text))
        return path

    return write


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a package with entry points where Python looks, laid out as an installer does it."""
    factors = tmp_path / "factors-packages"
    monkeypatch.syspath_prepend(str(factors))

    def install(package: str, text: str, group: str = "llmc.plugins", **entries: str) -> None:
        folder, info = factors / package, factors / f"{package}-1.0.dist-info"
        folder.mkdir(parents=True)
        info.mkdir()
        (folder / "__init__.py").write_text(dedent(text))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))

    return install


# Files


def test_a_plugin_file_adds_passes_and_ops(plugin) -> None:
    path = plugin("""
        from __future__ import annotations

        from dataclasses import dataclass
        from typing import Annotated

        import llmc
        from compiler.ir.evaluators.core import evaluates
        from compiler.ir.op import op
        from compiler.ir.patterns import P
        from compiler.ir.rules import Rule, apply_rules
        from compiler.ir.types import TensorType


        @op
        def plugin_softcap(x: TensorType, *, bound: float) -> TensorType:
            "`bound * tanh(x / bound)`."
            return x


        @llmc.register_pass("soften")
        @dataclass(frozen=True)
        class Soften:
            "Caps what was not capped."

            bound: Annotated[float, "the cap"] = 30.0

            def __call__(self, graph):
                rule = Rule("soften", P.relu("x"), lambda m, b: b.plugin_softcap(m["x"], bound=self.bound))
                return apply_rules(graph, [rule], pass_name="soften")


        @llmc.register_pass
        def nothing_at_all(graph):
            return graph
        """)
    module = load_plugin(path)
    assert load_plugin(str(path)) is module
    result = run_pipeline(graph_of(GRAPH), "soften=15,nothing-at-all")
    assert result.canonical == "soften=15.0,nothing-at-all"
    assert "%a: f32[B,4] = plugin_softcap(%x, bound=15.0)  !soften" in body_of(result.graph)
    info = find_pass("soften")
    assert info.module == str(path)
    assert info.plugin == OPS.plugin("plugin_softcap") == Plugin.of_file(path)


def test_plugins_of_one_name_in_two_folders(plugin, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    text = "import llmc\n@llmc.register_pass('{}')\ndef f(graph):\n    return graph\n"
    load_plugin(plugin(text.format("one")))
    load_plugin(plugin(text.format("two"), "other/plugin.py"))
    assert len(parse_pipeline("one,two")) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n\n1 / 0\n", "fails at line 3: ZeroDivisionError: division by zero"),
        ("def f(:\n", "fails at line 1: SyntaxError: invalid syntax"),
        (
            "import llmc\nimport no_such_module\n",
            "fails at line 2: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("import sys\nsys.exit(3)\n", "fails at line 2: SystemExit: 3"),
        (
            "import llmc\n@llmc.register_pass('fold')\ndef f(graph):\n    return graph\n",
            "fails at line 2: the pass 'fold' exists already, in compiler.passes.fold, line ",
        ),
    ],
)
def test_a_plugin_that_fails(plugin, text: str, message: str) -> None:
    path = plugin(text)
    with pytest.raises(PluginError) as caught:
        load_plugin(path)
    assert caught.value.message.startswith(f"the plugin {path} {message}")


def test_a_plugin_that_fails_leaves_nothing_behind(plugin) -> None:
    path = plugin(f"{dedent(EVERYTHING)}\n1 / 0\n")
    with pytest.raises(PluginError, match="division by zero"):
        load_plugin(path)
    assert [what for what, registry in REGISTRIES.items() if "everything" in registry] == []
    path.write_text(path.read_text().replace("1 / 0", ""))
    load_plugin(path)
    assert [what for what, registry in REGISTRIES.items() if "everything" not in registry] == []


def test_what_a_failing_plugin_imported_is_imported_again(plugin, tmp_path: Path, monkeypatch) -> None:
    """Its registrations are undone with those of the file that imported it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    plugin(EVERYTHING, "llmc_test_helper.py")
    path = plugin("import llmc_test_helper\n1 / 0\n")
    with pytest.raises(PluginError):
        load_plugin(path)
    assert ("everything" in OPS, "llmc_test_helper" in sys.modules) == (False, False)
    path.write_text("import llmc_test_helper\n")
    load_plugin(path)
    assert OPS.plugin("everything") == Plugin.of_file(path)


@pytest.mark.parametrize("what", REGISTRIES)
def test_a_name_is_taken_once_in_every_registry(plugin, what: str) -> None:
    """The message names both places, though one of them is another file."""
    first = plugin(EVERYTHING, "first.py")
    load_plugin(first)
    # The second file has the registration in question and nothing else.
    parts = dedent(EVERYTHING).split("\n\n\n")
    marks = {
        "op": "@op",
        "evaluator": "@evaluates",
        "torch": "@lowers",
        "tensorrt": "@emits",
        "sharding rule": "@sharding_rule",
        "pass": "@llmc",
        "family": "@frontend",
    }
    second = plugin("\n\n\n".join([parts[0], next(part for part in parts if part.startswith(marks[what]))]), "other.py")
    with pytest.raises(PluginError, match=r"already") as caught:
        load_plugin(second)
    assert re.search(rf"in {first}, line \d+; the new one is in {second}, line \d+", caught.value.message)


def test_no_such_plugin(plugin, tmp_path: Path) -> None:
    with pytest.raises(PluginError) as caught:
        load_plugin(tmp_path / "missing.py")
    assert str(caught.value) == f"there is no plugin {tmp_path / 'missing.py'}"
    text = plugin("x = 1", "notes.txt")
    with pytest.raises(PluginError) as caught:
        load_plugin(text)
    assert str(caught.value) == f"the plugin {text} is no Python file\nhint: its name must end in .py"


# Installed packages


def test_an_installed_package_offers_a_pass(install) -> None:
    install(
        "llmc_test_function",
        """
        from compiler.ir.rewrite import sweep

        def drop_relu(graph):
            "Removes every relu."
            return sweep(graph, lambda op, b: op.operands[0] if op.kind.name == "relu" else None, pass_name="no-relu")
        """,
        "llmc.passes",
        **{"no-relu": "llmc_test_function:drop_relu"},
    )
    result = run_pipeline(graph_of(GRAPH), "no-relu")
    assert [op.kind.name for op in result.graph.ops] == ["tanh"]
    assert result.canonical == "no-relu"
    info = find_pass("no-relu")
    assert (info.summary, info.plugin) == ("Removes every relu.", Plugin("llmc-test-function", "1.0"))


def test_what_an_entry_point_names_is_found_by_its_name_alone(install) -> None:
    """Although no list of passes or targets was asked for before."""
    install(
        "llmc_test_by_name",
        """
        from dataclasses import dataclass
        from compiler.targets import Target

        def same(graph):
            return graph

        @dataclass(frozen=True)
        class Nothing(Target):
            "Nothing beside what every engine has."
            title = "Nothing"

            def emit(self, rank, folder, progress):
                return {}
        """,
        "llmc.passes",
        same="llmc_test_by_name:same",
    )
    install(
        "llmc_test_by_name_too",
        "from llmc_test_by_name import Nothing",
        "llmc.targets",
        nothing="llmc_test_by_name_too:Nothing",
    )
    assert PASSES.find("same") is not None
    assert TARGETS.find("nothing") is not None
    assert TARGETS.find("something") is None


@pytest.mark.parametrize("group", ["llmc.passes", "llmc.plugins"])
def test_an_installed_package_registers_passes_by_a_module(install, group: str) -> None:
    name = group.replace(".", "_")
    install(
        f"llmc_test_{name}",
        f"""
        import llmc

        @llmc.register_pass("{name.replace("_", "-")}-one")
        def one(graph):
            return graph

        @llmc.register_pass("{name.replace("_", "-")}-two")
        def two(graph):
            return graph
        """,
        group,
        all=f"llmc_test_{name}",
    )
    names = {f"{name.replace('_', '-')}-{which}" for which in ("one", "two")}
    assert len(parse_pipeline(",".join(names))) == 2
    assert names <= {info.name for info in describe_passes()}


@pytest.mark.parametrize(
    "look_up",
    [
        lambda: op_kind("everything"),
        lambda: evaluator("everything"),
        lambda: find_pass("everything"),
        lambda: families().index("everything"),
        lambda: llmc.parse("graph g\ninput x: f32[4]\n.:\n  %y: f32[4] = everything(%x)\noutput y = %y\n"),
        lambda: TORCH_RULES.find("everything"),
    ],
    ids=["op", "evaluator", "pass", "family", "parse", "torch"],
)
def test_what_is_looked_up_is_looked_for_in_installed_packages(install, look_up, request) -> None:
    name = f"llmc_test_everything_{request.node.callspec.id}"
    install(name, EVERYTHING, all=name)
    assert "everything" not in OPS
    look_up()
    assert {what: str(registry.plugin("everything")) for what, registry in REGISTRIES.items()} == dict.fromkeys(
        REGISTRIES, f"the package {name.replace('_', '-')} 1.0"
    )


NEEDED: dict[str, tuple[Callable[[], object], type[LlmcError]]] = {
    "pass": (lambda: find_pass("nowhere"), PassError),
    "op": (lambda: op_kind("nowhere"), GraphError),
    "evaluator": (lambda: evaluator("nowhere"), GraphError),
    "family": (lambda: family_of({"model_type": "nowhere"}), ConfigError),
}


@pytest.mark.parametrize("what", NEEDED)
def test_a_package_that_fails_is_named_where_something_is_missing(install, what: str) -> None:
    name = f"llmc_test_broken_{what}"
    install(name, "\n1 / 0", broken=name)
    look_up, kind = NEEDED[what]
    with pytest.raises(kind) as caught:
        look_up()
    assert re.search(
        rf"the package '{name.replace('_', '-')}' cannot be used: its entry point 'broken' of llmc\.plugins "
        rf"\({name}\) fails: ZeroDivisionError: division by zero \(.*{name}/__init__\.py, line 2\); update it or "
        rf"uninstall it: pip install --upgrade {name.replace('_', '-')}, or pip uninstall {name.replace('_', '-')}",
        str(caught.value.hint),
    )


def test_a_package_that_fails_stops_nothing_else_and_is_told_of_once(install) -> None:
    install("llmc_test_half", f"{dedent(EVERYTHING)}\n1 / 0", half="llmc_test_half")
    notes = load_plugins()
    assert [note.partition(" cannot be used")[0] for note in notes] == ["the package 'llmc-test-half'"]
    assert load_plugins() == []
    assert len(parse_pipeline("fold,cse")) == 2
    assert [what for what, registry in REGISTRIES.items() if "everything" in registry] == []


def test_an_installed_package_cannot_replace_a_pass(install) -> None:
    install(
        "llmc_test_double", "def cleanup(graph):\n    return graph", "llmc.passes", cleanup="llmc_test_double:cleanup"
    )
    cleanup = find_pass("cleanup")
    assert cleanup.module == "compiler.passes.cleanup"
    [note] = load_plugins()
    assert "the pass 'cleanup' exists already, in compiler.passes.cleanup, line " in note


def test_a_rule_of_a_plugin_has_a_place_in_messages() -> None:
    importlib.import_module("runtime.executors.torch.rules")  # registers llmc's own
    with pytest.raises(TargetError) as caught:
        TORCH_RULES.add("gelu", lambda state, op: "x", test_no_such_plugin)
    assert re.fullmatch(
        r"the op 'gelu' has a rule of the torch executor already, in runtime\.executors\.torch\.rules, line \d+; "
        r"the new one is in tests/plugins/test_loading\.py, line \d+",
        caught.value.message,
    )
