"""What `--target` means on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import llmc.own_targets  # noqa: F401
from compiler.errors import TargetError
from compiler.targets import (
    Target,
    TargetInfo,
    always_targets,
    automatic_target,
    describe_targets,
    find_target,
    read_targets,
    target_name,
    with_options,
)
from runtime.load.ignored_options import Case, ignored_notes

Targets = str | Sequence[Target | str]
"""Targets to build for: a text such as `tensorrt-rtx:workers=1`, or a list of targets and such texts."""


class ResolvedTargets(NamedTuple):
    """The targets to build for by name, those that every engine has first; and what is to be said of the choice."""

    targets: Mapping[str, Target]
    notes: tuple[str, ...]


def known_targets(name: str | None = None) -> tuple[TargetInfo, ...]:
    """All targets, or the one of that name; TargetError, with a suggestion, if there is none."""
    return describe_targets() if name is None else (find_target(name),)


def resolve_targets(given: Targets, options: Mapping[str, Any]) -> ResolvedTargets:
    """The targets that are asked for, where `auto` stands for the one that suits this machine.

    Args:
        given: the targets.
        options: options of targets, by name: each changes those targets that have it.

    Raises:
        TargetError: if a target is unknown, is given twice with different options, or refuses one.
    """
    targets: list[Target] = [*always_targets()]
    notes: list[str] = []
    for item in [given] if isinstance(given, str) else given:
        for target in read_targets(item) if isinstance(item, str) else [item]:
            if isinstance(target, str):
                target, why = automatic_target()
                notes.append(f"target: {target_name(target)}, because {why}")
            targets.append(target)
    changed, unused = with_options(targets, options)
    named: dict[str, Target] = {}
    for target in changed:
        if named.setdefault(target_name(target), target) != target:
            raise TargetError(
                f"the target {target_name(target)!r} is given twice, with different options", hint="give it once"
            )
    in_vain = {name: options[name] for name in unused}
    return ResolvedTargets(named, (*notes, *ignored_notes(_without_effect(named, in_vain))))


def _without_effect(targets: Iterable[str], options: Mapping[str, Any]) -> Case:
    """The options that no target has, and which target has them; TargetError if that would refuse them."""
    why = f"the engine is built for {' and '.join(targets)} only"
    for info in describe_targets():
        if options and options.keys() <= {field.name for field in dataclasses.fields(info.target)}:
            info.make(options)
            why += f" (--target {info.name} takes {'it' if len(options) == 1 else 'them'})"
            break
    return Case(True, why, {f"--{name.replace('_', '-')}": True for name in options})
