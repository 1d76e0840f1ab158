"""The spelling of names and attribute values in the text form. Reading is the exact inverse of writing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import Any, get_args

from compiler.errors import GraphError
from compiler.ir.dims import Affine, parse_dim
from compiler.ir.dtypes import DType
from compiler.ir.op import Attr
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.types import TensorType, parse_type

# Patterns, to be composed. A bare name that starts with a dot is relative to the section's scope.
STRING = r'"(?:[^"\\]|\\.)*"'
NAME = rf"(?:[\w/.\-]+|{STRING})"
TYPE = r"\w+\[[^\]\"]*\]"

_BARE = re.compile(r"[\w/\-][\w/.\-]*")


def is_bare(name: str) -> bool:
    """Whether a name is written as it is, without quotes."""
    return _BARE.fullmatch(name) is not None


def quote(text: str) -> str:
    """A string literal on one line: JSON's."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return json.dumps(text)  # escapes all but ASCII, so that no exotic line break or lone surrogate reaches a file


def unquote(literal: str) -> str:
    """Inverse of `quote`; GraphError for a bad escape."""
    if "\\" not in literal:
        return literal[1:-1]
    try:
        text: str = json.loads(literal)
    except ValueError as error:
        raise GraphError(f"{literal} is no string: {error}") from None
    return text


def name_text(name: str) -> str:
    """A name as written: bare where possible, else quoted."""
    return name if is_bare(name) else quote(name)


def read_name(text: str) -> str:
    """Inverse of `name_text`."""
    return unquote(text) if text[0] == '"' else text


def attr_text(value: Attr) -> str:
    """An attribute's value as written; GraphError for what no attribute can hold."""
    # bool before int, which it is a kind of; the base classes' own repr, because NumPy's scalars have another
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return int.__repr__(value)
        case float():
            return float.__repr__(value)
        case str():
            return quote(value)
        case tuple():
            return "[" + ",".join([attr_text(item) for item in value]) + "]"
        case TensorRef():
            return ref_text(value, str(value.type))
        case DType() | Affine():
            return str(value)
    raise GraphError(f"a {type(value).__name__} cannot be an attribute: {value!r}")


def ref_text(ref: TensorRef, type_text: str) -> str:
    """A tensor reference as written: `f16[256] "ln_f.weight" in "model.safetensors" at 8192`."""
    return f"{type_text} {quote(ref.name)} in {quote(ref.file)} at {ref.offset}"


@lru_cache(maxsize=4096)
def type_of(text: str) -> TensorType:
    """`parse_type` that remembers: a model has few distinct types. Raises GraphError."""
    try:
        return parse_type(text)
    except ValueError as error:
        raise GraphError(str(error)) from None


_REF = rf"({TYPE})\s*({STRING})\s+in\s+({STRING})\s+at\s+(\d+)"
_REF_ATTR = re.compile(rf"(\w+)\s*=\s*{_REF}")
_TOKEN = re.compile(rf"\s*(?:{_REF}|({STRING})|([\w.+*\-]+)|([\[\],=]))")
_INT = re.compile(r"-?\d+")
_FLOAT = re.compile(r"-?(?:\d+\.\d*(?:e[+-]?\d+)?|\d+e[+-]?\d+|inf)|nan")
_DTYPES = {dtype.value: dtype for dtype in DType}
_BOOLS = {"true": True, "false": False}


def read_attr(text: str, declared: Any) -> Attr:
    """Inverse of `attr_text`. A not-a-number is always `math.nan`, so that it equals another in the same place.

    Args:
        text: the literal.
        declared: the attribute's declared type, which says whether a bare word is a dtype or a symbolic dim.

    Raises:
        GraphError: saying what was expected.
    """
    tokens = _tokens(text)
    value = _value(next(tokens, None), tokens, _leaves(declared))
    if (extra := next(tokens, None)) is not None:
        raise GraphError(f"expected one value, found {_shown(extra)} after it")
    return value


def read_attrs(text: str, declared: Mapping[str, Any]) -> dict[str, Attr]:
    """The attributes in `axis=-1, sizes=[64,64]`, given the declared type of each; GraphError like `read_attr`."""
    if match := _REF_ATTR.fullmatch(text):  # a weight: half of a graph's attributes
        name, *ref = match.groups()
        return {name: _ref(*ref)}
    attrs: dict[str, Attr] = {}
    tokens = _tokens(text)
    comma: _Token | None = None
    for token in tokens:
        name, equals = token[-2], next(tokens, None)
        if not name.isidentifier() or equals is None or equals[-1] != "=":
            raise GraphError(f"expected an attribute such as axis=-1, found {_shown(token)}")
        if name in attrs:
            raise GraphError(f"the attribute {name!r} is given twice")
        # A name that the op does not have is for `OpKind.attrs` to refuse, so its value may be any word.
        attrs[name] = _value(next(tokens, None), tokens, _leaves(declared.get(name, object)))
        comma = next(tokens, None)
        if comma is not None and comma[-1] != ",":
            raise GraphError(f"expected ',' or ')' after the attribute {name!r}, found {_shown(comma)}")
    if comma is not None:
        raise GraphError("expected an attribute after the last ','")
    return attrs


def _ref(type_text: str, name: str, file: str, offset: str) -> TensorRef:
    return TensorRef(type_of(type_text), unquote(name), unquote(file), int(offset))


# A token is what the groups of `_TOKEN` say: four of a reference, then a string, a word, a bracket or comma.
_Token = tuple[str, ...]


def _tokens(text: str) -> Iterator[_Token]:
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if not match:
            raise GraphError(f"expected a value at {text[position:].strip()!r}")
        yield match.groups(default="")
        position = match.end()


def _shown(token: _Token | None) -> str:
    return "nothing" if token is None else repr(next(group for group in token if group))


def _value(token: _Token | None, rest: Iterator[_Token], leaves: frozenset[Any]) -> Attr:
    if token is None:
        raise GraphError("expected a value, found nothing")
    *ref, string, word, mark = token
    if word:
        return _word(word, leaves)
    if string:
        return unquote(string)
    if ref[0]:
        return _ref(*ref)
    if mark != "[":
        raise GraphError(f"expected a value, found {mark!r}")
    return _items(rest, leaves)


def _items(rest: Iterator[_Token], leaves: frozenset[Any]) -> tuple[Attr, ...]:
    items: list[Attr] = []
    token = next(rest, None)
    if token is not None and token[-1] == "]":
        return ()
    while True:
        items.append(_value(token, rest, leaves))
        mark = next(rest, None)
        if mark is not None and mark[-1] == "]":
            return tuple(items)
        if mark is None or mark[-1] != ",":
            raise GraphError(f"expected ',' or ']' in a list, found {_shown(mark)}")
        token = next(rest, None)


def _word(word: str, leaves: frozenset[Any]) -> Attr:
    if _INT.fullmatch(word):
        return int(word)
    if DType in leaves and word in _DTYPES:
        return _DTYPES[word]
    if Affine in leaves:
        try:
            return parse_dim(word)
        except ValueError as error:
            raise GraphError(str(error)) from None
    if word in _BOOLS:
        return _BOOLS[word]
    if _FLOAT.fullmatch(word):
        return math.nan if word == "nan" else float(word)
    if object in leaves:
        return word
    raise _unknown_word(word, leaves)


def _unknown_word(word: str, leaves: frozenset[Any]) -> GraphError:
    if DType in leaves:
        return GraphError(f"{word!r} is no element type; known are {', '.join(_DTYPES)}")
    return GraphError(
        f"{word!r} is no value: expected a number, true, false, a string in double quotes or a list in brackets"
    )


@cache
def _leaves(declared: Any) -> frozenset[Any]:
    """The types that a declared type is made of: `tuple[int | Affine, ...]` is made of `int` and `Affine`."""
    parts = [part for part in get_args(declared) if part is not Ellipsis]
    return frozenset().union(*map(_leaves, parts)) if parts else frozenset({declared})
