"""Commands that refuse what would be dropped in silence: an option given twice, an empty value, an extra argument."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

from typer.core import TyperCommand, TyperGroup

from compiler.suggest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

# What may be empty: a pipeline of no passes; and what has a message of its own that says more.
_MAY_BE_EMPTY = ("passes", "prompt", "prompt_ids", "target", "batch_sizes", "prompt_sizes", "capacities")


class StrictCommand(TyperCommand):
    """A command that takes each option once, unless it may be repeated, and whose help may have sections.

    Attributes:
        extra_hint: where an argument that is too many probably belongs.
    """

    extra_hint: ClassVar[str] = ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See `TyperCommand.parse_args`; what is wrong is a usage error."""
        values, extra, order = self.make_parser(ctx).parse_args(args=list(args))
        if not values.get("help"):
            _check_once(ctx, order)
            for param in order:
                _check_filled(ctx, param, values.get(param.name))
            if extra:
                hint = f": {self.extra_hint}" if self.extra_hint else ""
                ctx.fail(f"{extra[0]!r} is one argument too many{hint}")
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """See `TyperCommand.format_options`; options that name a section of the help stand in it."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                section = "Arguments" if param.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(param, "rich_help_panel", None) or section, []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)


class NamingGroup(TyperGroup):
    """A group of commands that names them where there is no such command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See `TyperGroup.resolve_command`."""
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            known = self.list_commands(ctx)
            ctx.fail(f"there is no command {args[0]!r}{did_you_mean(args[0], known)} (there are: {', '.join(known)})")
        return super().resolve_command(ctx, args)


def strict(extra_hint: str) -> type[StrictCommand]:
    """A `StrictCommand` that says where an argument that is too many belongs."""
    return type("StrictCommand", (StrictCommand,), {"extra_hint": extra_hint})


def _check_once(ctx: Any, order: Sequence[Any]) -> None:
    counts = Counter(param.name for param in order)
    for param in order:
        # A flag that can be switched on only may be repeated; one that has an opposite could contradict itself.
        repeatable = getattr(param, "is_flag", False) and not getattr(param, "secondary_opts", ())
        single = not getattr(param, "multiple", False) and not repeatable
        if single and counts[param.name] > 1:
            ctx.fail(f"{_shown(param)} is given {counts[param.name]} times: give it once")


def _check_filled(ctx: Any, param: Any, value: Any) -> None:
    given = value if isinstance(value, list) else [value]
    if "" in given and param.name not in _MAY_BE_EMPTY:
        ctx.fail(f"{_shown(param)} is empty: give it a value" + ("" if param.required else ", or leave it out"))


def _shown(param: Any) -> str:
    """How an option or argument is called: `--max-batch`, `MODEL`."""
    return str(max(param.opts, key=len)) if param.param_type_name == "option" else str(param.name).upper()
