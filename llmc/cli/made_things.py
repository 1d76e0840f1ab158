"""How `llmc passes` and `llmc targets` show what there is, with its options."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from llmc.cli.console import table

if TYPE_CHECKING:
    from compiler.options import MakerInfo, Option


def as_json(infos: Iterable[MakerInfo]) -> str:
    """A list of all, with their options."""
    return json.dumps([info.as_json() for info in infos], indent=2)


def listed(infos: Iterable[MakerInfo]) -> str:
    """For each what it does, then its options."""
    return table([row for info in infos for row in [(info.name, info.summary), *map(_option_row, info.options)]])


def details(info: MakerInfo) -> str:
    """All about one."""
    parts = [f"{info.name} (defined in {info.module})", info.doc]
    if info.options:
        parts.append(f"Options, the first of which is what {info.name}=VALUE sets:")
        parts.append(table([_option_row(option) for option in info.options]))
    return "\n\n".join(parts)


def _option_row(option: Option) -> tuple[str, str]:
    default = "required" if option.required else f"default {option.text.partition('=')[2] or 'empty'}"
    return f"  {option.name}", f"{option.type_text} ({default}){': ' if option.help else ''}{option.help}"
