"""The names of a step, its dims and the axes of caches are spelled in one place; other code asks for them there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from compiler.ir.cache_layout import CACHE
from compiler.ir.packed_step import PackedStep
from compiler.ir.step import Step, StepDim
from tests.paths import ROOT

OWNERS = {
    "compiler/ir/step.py",
    "compiler/ir/cache_layout.py",
}
# What a layer of TensorRT means is TensorRT's to say: its emulation must not follow a layout of ours. Kernels address
# memory by its strides, and have parameters of one letter.
FOREIGN = ("compiler/trt_emulator/", "runtime/executors/cuda/kernels/")

# `token_ids` is a key of files and of results, too.
NAMES = {name for name in (*Step._fields, *PackedStep._fields) if name != "token_ids"}
DIMS = {
    *(StepDim.BATCH, StepDim.LENGTH, StepDim.CAPACITY, StepDim.WANTED),
    *(StepDim.TOKENS, StepDim.BLOCKS, StepDim.TABLE),
}
# Names of Python's own that may be a letter: a type variable, what a module exports, a placeholder in a usage.
OTHER_LETTERS = {"TypeVar", "__all__", "metavar"}

CACHES = re.compile(r"(^|_)(cache|caches|states?|kv|pools?)(_|$)|^[kv]$")
BY_AXIS = {"size", "stride", "narrow", "select", "unbind", "index_select", "index_copy_", "slice_scatter", "scatter_"}


def problems(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """What a module spells out that only the owners may, with its line."""
    passed = {id(node) for node in ast.walk(tree) for node in _passed(node)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in passed:
                if found := NAMES & set(re.findall(r"\w+", text)):
                    yield node.lineno, f"spells {', '.join(sorted(found))}"
                elif text in DIMS:
                    yield node.lineno, f"spells the dim {text}"
                elif text == CACHE:
                    yield node.lineno, "spells the names of caches"
            case ast.Call(func=ast.Name(id="map"), args=[ast.Name(id="symbol"), ast.Constant(value=str(text))]):
                if DIMS & set(text):
                    yield node.lineno, f"spells the dims {text}"
            case ast.Call(func=ast.Attribute(value=of, attr=attr)) if attr in BY_AXIS and _is_cache(of):
                if node.args and _is_number(node.args[0]):
                    yield node.lineno, f"numbers an axis of a cache in {attr}"
            case ast.Subscript(value=ast.Attribute(value=of, attr="shape"), slice=at):
                if _is_cache(of) and (_is_number(at) or _ends_at_number(at)):
                    yield node.lineno, "numbers an axis of a cache's shape"
            case ast.Subscript(value=of, slice=ast.Tuple()) if _is_cache(of) and isinstance(
                node.ctx, ast.Load | ast.Store
            ):
                yield node.lineno, "indexes the axes of a cache"


def _passed(node: ast.AST) -> Iterator[ast.AST]:
    """The texts under a node that mean something else: docstrings, and single letters of Python's own."""
    match node:
        case ast.Expr(value=ast.Constant() as text):
            yield text
        case ast.Call(func=ast.Name(id=name), args=[first, *_]) if name in OTHER_LETTERS:
            yield first
        case ast.keyword(arg=name, value=value) if name in OTHER_LETTERS:
            yield value
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in OTHER_LETTERS:
            yield from ast.walk(value)


def _is_number(node: ast.expr) -> bool:
    negative = isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant)
    return negative or (isinstance(node, ast.Constant) and isinstance(node.value, int))


def _ends_at_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Slice) and any(end is not None and _is_number(end) for end in (node.lower, node.upper))


def _is_cache(node: ast.expr) -> bool:
    """Whether what an expression is called says that it is a cache, as `cache`, `cache.type` or `self.caches[name]`."""
    match node:
        case ast.Attribute(value=of, attr="type"):
            return _is_cache(of)
        case ast.Subscript(value=of):
            return _is_cache(of)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return CACHES.search(name) is not None
    return False


def modules() -> Iterator[Path]:
    for folder in ("compiler", "llmc", "runtime", "benchmarks"):
        yield from (ROOT / folder).rglob("*.py")


def test_only_the_owners_spell_the_names_and_dims_of_a_step_and_the_axes_of_caches() -> None:
    found = []
    for path in modules():
        name = path.relative_to(ROOT).as_posix()
        if name not in OWNERS and not name.startswith(FOREIGN):
            found += [f"{name}:{line} {what}" for line, what in problems(ast.parse(path.read_text()))]
    assert not found, "\n".join(found)


def test_the_owners_do() -> None:
    for name in OWNERS:
        assert list(problems(ast.parse((ROOT / name).read_text()))), name


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("graph.value('past_len')", "spells past_len"),
        ("f'%new_len of {x}'", "spells new_len"),
        ("{'logit_pos': at}", "spells logit_pos"),
        ("sizes['B']", "spells the dim B"),
        ("b.dims = {'C': most}", "spells the dim C"),
        ("S, C = map(symbol, 'SC')", "spells the dims SC"),
        ("symbol('S')", "spells the dim S"),
        ("name.startswith('cache.')", "spells the names of caches"),
        ("k.type.shape[1]", "numbers an axis of a cache's shape"),
        ("cache.shape[2]", "numbers an axis of a cache's shape"),
        ("cache.type.shape[-1]", "numbers an axis of a cache's shape"),
        ("self.caches[name].shape[:2]", "numbers an axis of a cache's shape"),
        ("kv_cache.narrow(2, 0, length)", "numbers an axis of a cache in narrow"),
        ("cache[rows, :, at]", "indexes the axes of a cache"),
        ("cache.shape[LINEAR.POSITION]", None),
        ("cache.narrow(LINEAR.POSITION, 0, length)", None),
        ("graph.value('block_tables')", "spells block_tables"),
        ("b.dims = {'T': most}", "spells the dim T"),
        ("pool.shape[0]", "numbers an axis of a cache's shape"),
        ("def step():\n    '''Takes `past_len`.'''", None),
        ("K = TypeVar('S', bound=object)", None),
        ("__all__ = ['B', 'S']", None),
        ("Argument(metavar='B')", None),
        ("step.past_len", None),
        ("x.shape[0]", None),
    ],
)
def test_what_is_spelled_is_found(code: str, what: str | None) -> None:
    found = [problem for _, problem in problems(ast.parse(code))]
    assert (what in found) if what else not found, found
