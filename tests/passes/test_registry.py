"""Registering passes by decorator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from compiler.errors import PassError
from compiler.ir.graph import Graph
from compiler.passes import describe_passes, find_pass, parse_pipeline, register_pass
from tests.registrations import forgotten


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    with forgotten():
        yield


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
    assert re.fullmatch(
        r"the pass 'dtype' exists already, in compiler\.passes\.dtype, line \d+; "
        r"the new one is in tests/passes/test_registry\.py, line \d+\n"
        r"hint: give the new one a name of its own",
        str(caught.value),
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
