"""Layers that are alike, so that a reader is shown one of them: `layers.1 to layers.27 are as layers.0`.

Two layers are alike if they have the same ops in the same order, with the same attributes and types, under names that
differ in the layer's number only; of weights, places in files may differ. What a layer takes from outside (the sum of
the layer before, its caches) may be another value, if it is another one throughout; that is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from compiler.ir.layers import layer_number, layer_of
from compiler.ir.literals import attr_text, name_text
from compiler.ir.op import Attr, Op
from compiler.ir.tensor_ref import TensorRef

T = TypeVar("T")


class Form(NamedTuple):
    """A line of text, but for the number of its layer.

    Attributes:
        said: what it says, with a mark in place of the number.
        taken: the names of the values that it takes, as they are.
        given: the names of the values that it defines.
    """

    said: Hashable
    taken: tuple[str, ...] = ()
    given: tuple[str, ...] = ()


@dataclass(frozen=True)
class Folded(Generic[T]):
    """Lines that are shown, and the layers that are as these.

    Attributes:
        shown: the lines; those of one layer if any are like it.
        like: a sentence on the layers that are left out; empty if none are.
    """

    shown: Sequence[T]
    like: str = ""


def fold(items: Iterable[T], name: Callable[[T], str], form: Callable[[T, int], Form]) -> Iterator[Folded[T]]:
    """Leave out layers that are as the one before them.

    Args:
        items: lines of text, in order.
        name: the name of what a line defines, by which it belongs to a layer.
        form: called as `form(line, number)` with the number of its layer.
    """
    runs = list(_layers(items, name))
    at = 0
    while at < len(runs):
        layer, lines = runs[at]
        number = layer_number(layer)
        end, taken = at + 1, None
        if number is not None:
            first = [form(line, number) for line in lines]
            while end < len(runs):
                other = number + end - at
                if runs[end][0] != _layer_after(layer, other):
                    break
                others = _alike(first, number, [form(line, other) for line in runs[end][1]], other)
                if others is None or (taken is not None and others != taken):
                    break
                taken, end = others, end + 1
        like = [each for each, _ in runs[at + 1 : end]]
        yield Folded(lines, _sentence(layer, like, taken or {}) if like else "")
        at = end


def _layer_after(layer: str, number: int) -> str:
    """The layer of that number beside another one."""
    outer, dot, _ = layer.rpartition(".")
    return f"{outer}{dot}{number}"


def numberless(name: str, number: int) -> str:
    """A name with `#` in place of each part that is the number: `layers.#.attn.q`."""
    return ".".join("#" if part == str(number) else part for part in name.split("."))


def numberless_text(text: str, number: int) -> str:
    """A text with `#` in place of the number within the names in it."""
    words = re.split(r"([ :;%,()])", text)
    return "".join(word if word[:1].isdecimal() else numberless(word, number) for word in words)  # 2.0 is no name


def alike(items: Iterable[T], name: Callable[[T], str], text: Callable[[T], str]) -> Iterator[list[T]]:
    """Things that are said of several layers in the same words, together.

    Args:
        items: the things.
        name: the name of the value that one is about.
        text: what is said of it.
    """
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        number = layer_number(layer_of(name(item)))
        key = (name(item), text(item))
        if number is not None:
            key = (numberless(key[0], number), numberless_text(key[1], number))
        groups.setdefault(key, []).append(item)
    yield from groups.values()


def span(names: Sequence[str]) -> str:
    """The values of several layers that `alike` found, in short: `%layers.0..27.attn.q`."""
    first = names[0]
    if len(names) == 1:
        return f"%{first}"
    layer = layer_of(first)
    numbers = [layer_number(layer_of(name)) for name in names]
    start = numbers[0]
    if start is None or numbers != list(range(start, start + len(names))):
        return f"%{first} and {len(names) - 1} like it"
    return f"%{layer}..{numbers[-1]}{first.removeprefix(layer)}"


def op_form(op: Op, number: int) -> Form:
    """The form of an op's line."""
    results = tuple((numberless(value.name, number), value.type) for value in op.results)
    attrs = tuple((name, _attr(value, number)) for name, value in op.attrs.items())
    types = tuple(value.type for value in op.operands)
    origin = (numberless(op.origin.module, number), op.origin.passes)
    taken, given = (tuple(value.name for value in values) for values in (op.operands, op.results))
    return Form((op.kind.name, results, attrs, types, origin), taken, given)


def _attr(value: Attr, number: int) -> Hashable:
    if isinstance(value, TensorRef):
        return value.type, numberless(value.name, number)
    return numberless(value, number) if isinstance(value, str) else attr_text(value)


def _layers(items: Iterable[T], name: Callable[[T], str]) -> Iterator[tuple[str, list[T]]]:
    """Lines that follow each other and belong to one layer."""
    layer, lines = "", list[T]()
    for item in items:
        found = layer_of(name(item))
        if lines and found != layer:
            yield layer, lines
            lines = []
        layer = found
        lines.append(item)
    if lines:
        yield layer, lines


def _alike(first: Sequence[Form], number: int, second: Sequence[Form], other: int) -> dict[str, str] | None:
    """What the second layer takes in place of what the first one takes; None if they are not alike.

    Of what comes from the layer before the second one, the number is left out.
    """
    if len(first) != len(second):
        return None
    taken: dict[str, str] = {}
    places: dict[str, str] = {}
    inner = [{name for form in forms for name in form.given} for forms in (first, second)]
    for one, two in zip(first, second, strict=True):
        if one.said != two.said or len(one.taken) != len(two.taken):
            return None
        for a, b in zip(one.taken, two.taken, strict=True):
            if taken.setdefault(a, b) != b or places.setdefault(b, a) != a:
                return None
            if (a in inner[0] or b in inner[1]) and numberless(a, number) != numberless(b, other):
                return None
    return {a: numberless(b, other - 1) for a, b in taken.items() if numberless(a, number) != numberless(b, other)}


def _sentence(layer: str, like: Sequence[str], taken: dict[str, str]) -> str:
    which = f"{like[0]} is" if len(like) == 1 else f"{like[0]} to {like[-1]} are"
    instead = [f"{_named(b)} in place of %{name_text(a)}" for a, b in taken.items()]
    return f"{which} as {layer}" + (f", with {' and '.join(instead)}" if instead else "")


def _named(template: str) -> str:
    """`%.after_mlp of the layer before` for `layers.#.after_mlp`."""
    before, mark, within = template.rpartition("#.")
    return f"%.{name_text(within)} of the layer before" if mark and before else f"%{name_text(template)}"
