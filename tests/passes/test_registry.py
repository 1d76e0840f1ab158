"""Registering passes: by decorator, by plugin file, by the entry point of an installed package."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

from compiler.errors import PassError
from compiler.ir.graph import Graph
from compiler.passes import describe_passes, find_pass, load_plugin, parse_pipeline, register_pass, run_pipeline
from compiler.passes.registry import load_entry_points
from tests.passes.checks import body_of, forgotten_passes, graph_of

GRAPH = """
    input x: f32[B,4]
    .:
      %a: f32[B,4] = relu(%x)
      %y: f32[B,4] = tanh(%a)
    output y = %y
    """


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    load_entry_points()
    with forgotten_passes():
        yield


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "plugin.py") -> Path:
        path = tmp_path / name
        path.write_text(dedent(text))
        return path

    return write


def test_a_function_takes_its_name_with_hyphens() -> None:
    @register_pass
    def drop_nothing(graph: Graph) -> Graph:
        """Drops nothing.

        At all.
        """
        return graph

    assert parse_pipeline("drop-nothing") == (drop_nothing,)
    info = find_pass("drop-nothing")
    assert (info.summary, info.options, info.module) == ("Drops nothing.", (), __name__)
    assert info in describe_passes()


def test_the_builtin_passes_describe_themselves() -> None:
    builtin = {"cleanup", "cse", "dce", "dtype", "fold", "fuse-attention", "merge-linears"}
    infos = {info.name: info for info in describe_passes() if info.name in builtin}
    assert infos.keys() == builtin
    assert list(infos) == sorted(infos)
    for info in infos.values():
        assert info.summary.endswith((".", ":", ")")), info.name
        assert all(option.help for option in info.options), info.name
    assert [option.text for option in infos["dtype"].options] == ["to=float32|float16|bfloat16|f32|f16|bf16 (required)"]


def test_names_are_taken_once() -> None:
    with pytest.raises(PassError) as caught:
        register_pass("dtype")(lambda graph: graph)
    assert str(caught.value) == (
        "the pass 'dtype' exists already, in compiler.passes.dtype\nhint: give the new one a name of its own"
    )


def test_what_is_no_pass() -> None:
    @dataclass
    class Thawed:
        def __call__(self, graph: Graph) -> Graph:
            return graph

    @dataclass(frozen=True)
    class Idle:
        size: int = 1

    @dataclass(frozen=True)
    class Odd:
        sizes: dict[str, int]

        def __call__(self, graph: Graph) -> Graph:
            return graph

    class Plain:
        pass

    for maker, message in (
        (Thawed, "the pass 'p' must be a frozen dataclass: write @dataclass(frozen=True)"),
        (Idle, "the pass 'p' needs a method __call__(self, graph) that returns the new graph"),
        (Plain, "the pass 'p' must be a function of a graph or a frozen dataclass"),
        (3, "the pass 'p' must be a function of a graph or a frozen dataclass"),
    ):
        with pytest.raises(PassError) as caught:
            register_pass("p")(maker)  # type: ignore[type-var]
        assert str(caught.value) == message
    with pytest.raises(PassError, match=r"the option 'sizes' of .*Odd has the type dict\[str, int\]; options are int"):
        register_pass("p")(Odd)
    with pytest.raises(PassError, match="the pass 'My Pass' needs another name: small letters, digits and hyphens"):
        register_pass("My Pass")(lambda graph: graph)


def test_a_plugin_file_adds_passes_and_ops(plugin) -> None:
    path = plugin("""
        from __future__ import annotations

        from dataclasses import dataclass
        from typing import Annotated

        import llmc
        from compiler.ir.evaluators import evaluates
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
            "fails at line 2: the pass 'fold' exists already, in compiler.passes.fold",
        ),
    ],
)
def test_a_plugin_that_fails(plugin, text: str, message: str) -> None:
    path = plugin(text)
    with pytest.raises(PassError) as caught:
        load_plugin(path)
    assert caught.value.message.startswith(f"the plugin {path} {message}")


def test_a_plugin_that_fails_leaves_nothing_behind(plugin) -> None:
    path = plugin("import llmc\n@llmc.register_pass\ndef half(graph):\n    return graph\n1 / 0\n")
    with pytest.raises(PassError):
        load_plugin(path)
    with pytest.raises(PassError, match="there is no pass 'half'"):
        find_pass("half")
    path.write_text(path.read_text().replace("1 / 0", ""))
    load_plugin(path)
    assert find_pass("half").name == "half"


def test_no_such_plugin(plugin, tmp_path: Path) -> None:
    with pytest.raises(PassError) as caught:
        load_plugin(tmp_path / "missing.py")
    assert str(caught.value) == f"there is no plugin {tmp_path / 'missing.py'}"
    text = plugin("x = 1", "notes.txt")
    with pytest.raises(PassError) as caught:
        load_plugin(text)
    assert str(caught.value) == f"the plugin {text} is no Python file\nhint: its name must end in .py"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Put a package with entry points where Python looks, laid out as an installer does it."""
    site = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(site))

    def install(package: str, text: str, **entries: str) -> None:
        folder, info = site / package, site / f"{package}-1.0.dist-info"
        folder.mkdir(parents=True)
        info.mkdir()
        (folder / "__init__.py").write_text(dedent(text))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[llmc.passes]", *lines, ""]))

    before = set(sys.modules)
    yield install
    for name in set(sys.modules) - before:
        if name.startswith("llmc_test_"):
            del sys.modules[name]


def test_an_installed_package_offers_a_pass(install) -> None:
    install(
        "llmc_test_function",
        """
        from compiler.ir.rewrite import sweep

        def drop_relu(graph):
            "Removes every relu."
            return sweep(graph, lambda op, b: op.operands[0] if op.kind.name == "relu" else None, pass_name="no-relu")
        """,
        **{"no-relu": "llmc_test_function:drop_relu"},
    )
    result = run_pipeline(graph_of(GRAPH), "no-relu")
    assert [op.kind.name for op in result.graph.ops] == ["tanh"]
    assert result.canonical == "no-relu"
    assert find_pass("no-relu").summary == "Removes every relu."


def test_an_installed_package_registers_passes_by_a_module(install) -> None:
    install(
        "llmc_test_module",
        """
        import llmc

        @llmc.register_pass("third-party-one")
        def one(graph):
            return graph

        @llmc.register_pass("third-party-two")
        def two(graph):
            return graph
        """,
        all="llmc_test_module",
    )
    assert len(parse_pipeline("third-party-one,third-party-two")) == 2
    assert {"third-party-one", "third-party-two"} <= {info.name for info in describe_passes()}


def test_an_installed_package_that_fails_is_named(install) -> None:
    install("llmc_test_broken", "1 / 0", broken="llmc_test_broken")
    with pytest.raises(PassError) as caught:
        describe_passes()
    assert str(caught.value) == (
        "the passes of the package 'llmc-test-broken' (llmc_test_broken) cannot be loaded: "
        "ZeroDivisionError: division by zero\n"
        "hint: update the package or uninstall it: pip uninstall llmc-test-broken"
    )


def test_an_installed_package_cannot_replace_a_pass(install) -> None:
    install("llmc_test_double", "def cleanup(graph):\n    return graph", cleanup="llmc_test_double:cleanup")
    with pytest.raises(PassError, match=r"the pass 'cleanup' exists already, in compiler\.passes\.cleanup"):
        parse_pipeline("fold")
