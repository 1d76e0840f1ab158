"""The options of a compilation: one list of them, for Python, for type checkers and for the command line."""

from __future__ import annotations

import dataclasses
import inspect
from typing import get_type_hints

import pytest

from llmc.cli.compile_command import compile_command
from llmc.compiling.options import CompileKeywords, CompileOptions

FIELDS = get_type_hints(CompileOptions)
# What the command line calls otherwise, and what it spells as options of targets.
RENAMED = {"dump_ir": "dump_ir", "plugins": "plugin"}


def test_keywords_have_the_types_of_the_options() -> None:
    assert get_type_hints(CompileKeywords) == FIELDS


def test_the_command_line_has_every_option() -> None:
    given = inspect.signature(compile_command).parameters
    assert [name for name in FIELDS if name != "build" and RENAMED.get(name, name) not in given] == []


def test_options_are_changed_by_name() -> None:
    options = CompileOptions(max_batch=2).changed({"dtype": "float32"})
    assert (options.max_batch, options.dtype) == (2, "float32")
    assert dataclasses.replace(options, dtype=None) == CompileOptions(max_batch=2)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("max_bach", r"a compilation has no option 'max_bach'; did you mean 'max_batch'\?"),
        ("batch_sizes", r"'batch_sizes' is an option of targets: write build=\{'batch_sizes': \(1, 2\)\}"),
    ],
)
def test_another_name_is_refused(name: str, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        CompileOptions().changed({name: (1, 2)})
