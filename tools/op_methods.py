"""Writes compiler/ir/op_methods.py: the ops of the IR as typed methods, from the signatures of their type rules.

    python tools/op_methods.py

Run it after an op was added or its signature or docstring was changed; a test compares the file with what this gives.
"""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import compiler.ir.ops  # noqa: F401 - registers the ops
from compiler.ir.op import OPS, OpKind

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "compiler" / "ir" / "op_methods.py"
COMMAND = "python tools/op_methods.py"

HEADER = '''\
"""The ops of the IR as methods of a builder, for type checkers and editors. Generated: see tools/op_methods.py.

Nothing here exists at run time, when `Builder` finds a method for every op that is registered, those of plug-ins too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.ir.dims import Dim
    from compiler.ir.dtypes import DType
    from compiler.ir.op import Value
    from compiler.ir.tensor_ref import TensorRef


class OpMethods:
    """One method for each op: operands by position, then attributes and `name`, or `names` of several results."""

    if TYPE_CHECKING:
'''


def source() -> str:
    """The text of compiler/ir/op_methods.py, in the project's style."""
    own = [kind for name, kind in OPS.items() if OPS.is_own(name)]
    text = HEADER + "".join(textwrap.indent(_method(kind), " " * 8) for kind in own)
    command = [sys.executable, "-m", "ruff", "format", "--config", str(ROOT / "pyproject.toml"), "-"]
    return subprocess.run(command, input=text, text=True, capture_output=True, check=True).stdout


def _method(kind: OpKind) -> str:
    """The definition of the method of one op, without indentation."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind.rule))).body[0]
    assert isinstance(tree, ast.FunctionDef) and tree.returns is not None
    results = ast.unparse(tree.returns).replace("TensorType", "Value")
    parameters = ", ".join(["self", *_operands(tree.args), *_attributes(tree.args), _naming(results)])
    return f"\ndef {kind.name}({parameters}) -> {results}:\n{_docstring(kind)}\n"


def _operands(arguments: ast.arguments) -> Iterator[str]:
    """The operands, which come by position only; `*`, where the keywords begin, goes last."""
    listed = [*arguments.posonlyargs, *arguments.args]
    optional = len(listed) - len(arguments.defaults)
    for i, operand in enumerate(listed):
        yield f"{operand.arg}: {_annotation(operand)}" + (" = None" if i >= optional else "")
    if listed:
        yield "/"
    yield f"*{arguments.vararg.arg}: {_annotation(arguments.vararg)}" if arguments.vararg else "*"


def _attributes(arguments: ast.arguments) -> Iterator[str]:
    for attribute, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield f"{attribute.arg}: {_annotation(attribute)}" + (f" = {ast.unparse(default)}" if default else "")


def _annotation(argument: ast.arg) -> str:
    """The type as the type rule spells it, of a value for a type; any sequence will do for a tuple of any length."""
    assert argument.annotation is not None
    text = ast.unparse(argument.annotation).replace("TensorType", "Value")
    return text.replace("tuple[", "Sequence[").replace(", ...]", "]") if text.endswith(", ...]") else text


def _naming(results: str) -> str:
    return "names: tuple[str, ...]" if results.startswith("tuple[") else "name: str | None = None"


def _docstring(kind: OpKind) -> str:
    ending = '\n"""' if "\n" in kind.doc else '"""'
    return textwrap.indent(f'"""{kind.doc}{ending}', " " * 4)


if __name__ == "__main__":
    TARGET.write_text(source(), encoding="utf-8", newline="\n")
    sys.stdout.write(f"wrote {TARGET.relative_to(ROOT)}\n")
