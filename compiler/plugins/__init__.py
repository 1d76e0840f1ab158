"""Plug-ins: passes, ops with their rules, and families of models that are not llmc's own.

A plug-in is a Python file (`--plugin FILE.py`) or an installed package. It registers things as llmc itself does, in a
`Registry`; `load_plugins` imports it, and `blamed` names its file and line where it fails.
"""

from compiler.plugins.faults import blame, blamed, fault, located
from compiler.plugins.loading import adopt, broken_hint, load_file, load_installed, load_plugins
from compiler.plugins.registry import Registry, all_or_nothing, registered_plugins
from compiler.plugins.source import Place, Plugin, is_own, place_of

__all__ = [
    "Place",
    "Plugin",
    "Registry",
    "adopt",
    "all_or_nothing",
    "blame",
    "blamed",
    "broken_hint",
    "fault",
    "is_own",
    "load_file",
    "load_installed",
    "load_plugins",
    "located",
    "place_of",
    "registered_plugins",
]
