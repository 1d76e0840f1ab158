"""Which plug-ins an engine was compiled with: whether those that it needs are there, and are the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compiler.ir.ops  # noqa: F401 - registers llmc's own
from compiler.errors import EngineError
from compiler.ir.op import OPS
from compiler.plugins import Plugin, broken_hint, load_installed, registered_plugins
from compiler.targets import TARGETS
from runtime.engine_dir.json_fields import Fields


@dataclass(frozen=True)
class UsedPlugin:
    """A plug-in that an engine was compiled with.

    Attributes:
        plugin: the package or file.
        ops: the kinds of op in the engine's graphs that it defines.
        rules: the kinds of op that others define and it has an evaluator or a rule of the torch executor for.
        passes: its passes in the engine's pipeline.
        families: the model's family, if the plug-in lifts it.
        targets: its targets that the engine was built for.
    """

    plugin: Plugin
    ops: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        plugin = self.plugin
        name = {"file": plugin.name, "sha256": plugin.sha256} if plugin.is_file else _package(plugin)
        return {**name, **{key: list(getattr(self, key)) for key in _USES}}

    @classmethod
    def read(cls, fields: Fields) -> UsedPlugin:
        """From a manifest; EngineError if a key is missing or of another type."""
        if "file" in fields.values:
            plugin = Plugin(fields.string("file"), sha256=fields.string("sha256"))
        else:
            plugin = Plugin(fields.string("package"), version=fields.string("version"))
        return cls(plugin, **{key: fields.string_list(key) for key in _USES if key in fields.values})


_USES = ("ops", "rules", "passes", "families", "targets")


def _package(plugin: Plugin) -> Mapping[str, str]:
    return {"package": plugin.name, "version": plugin.version}


def require_plugins(engine: Path, used: Iterable[UsedPlugin]) -> None:
    """See that the plug-ins are there whose ops an engine runs.

    Raises:
        EngineError: naming the first op that nothing defines, the plug-in that did, and how to give it.
    """
    for each in used:
        missing = next((name for name in each.ops if OPS.find(name) is None), None)
        if missing is None and each.rules and not _registers(each.plugin):
            missing = each.rules[0]
        if missing is not None:
            raise EngineError(
                f"{engine} needs the op {missing!r}, for which it was compiled with {each.plugin}",
                hint=broken_hint(_how_to_give(each.plugin)),
            )


def plugin_notes(engine: Path, used: Iterable[UsedPlugin]) -> list[str]:
    """A sentence for each plug-in whose ops come from something else than when an engine was compiled.

    And one for each target that nothing here knows.
    """
    used = tuple(used)
    unknown = [
        f"{engine} was compiled for the target {name} of {each.plugin}, which is not there; {_how_to_give(each.plugin)}"
        for each in used
        for name in each.targets
        if TARGETS.find(name) is None
    ]
    return unknown + [
        f"{engine} was compiled with {each.plugin}; its ops are those of {found or 'llmc itself'} now"
        for each in used
        for found in dict.fromkeys(OPS.plugin(name) for name in each.ops)
        if found != each.plugin
    ]


def plugins_found(used: Iterable[UsedPlugin]) -> str:
    """What the ops of plug-ins come from here, as a text that is the same where they are the same."""
    found = {(name, OPS.plugin(name)) for each in used for name in each.ops}
    return "; ".join(sorted(f"{name} of {plugin}" for name, plugin in found))


def _registers(plugin: Plugin) -> bool:
    load_installed()
    return any(known.name == plugin.name for known in registered_plugins())


def _how_to_give(plugin: Plugin) -> str:
    if plugin.is_file and not plugin.sha256:
        return "put it into a file, and compile again with --plugin FILE.py"
    if plugin.is_file:
        return f"give the file: --plugin {plugin.name} (in Python: plugins=[...])"
    return f"install it: pip install {plugin.name}=={plugin.version}"
