"""Passes and ops of the user's own, in Python files: `--plugin FILE.py`."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from compiler.errors import LlmcError, PassError
from compiler.ir.suggest import did_you_mean_path, names_in
from compiler.passes.registry import all_or_nothing

_PREFIX = "llmc_plugin_"


def load_plugin(path: str | os.PathLike[str]) -> ModuleType:
    """Import a Python file; the passes and ops that it defines are registered then. A second time does nothing.

    Raises:
        PassError: if there is no such file, or it raises, naming the file and line.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise _missing(path, file)
    # Two plugins may share a file name, so that the whole path is in the module's.
    name = f"{_PREFIX}{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PassError(f"the plugin {path} is no Python file", hint="its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it is being executed
    try:
        with all_or_nothing():
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, (Exception, SystemExit)):
            raise
        reason = error.message if isinstance(error, LlmcError) else f"{type(error).__name__}: {error}"
        hint = error.hint if isinstance(error, LlmcError) else None
        raise PassError(f"the plugin {path} fails{_line(error, file)}: {reason}", hint=hint) from error
    return module


def _missing(path: str | os.PathLike[str], file: Path) -> PassError:
    """That there is no such file, and which one may have been meant."""
    if not file.is_dir():
        return PassError(f"there is no plugin {path}{did_you_mean_path(path, Path.is_file)}")
    plugins = [f"--plugin {Path(path) / name}" for name in names_in(file) if name.endswith(".py")]
    return PassError(
        f"the plugin {path} is a folder, not a Python file",
        hint=f"name the files in it: {' '.join(plugins)}" if plugins else "it holds no .py files",
    )


def _line(error: BaseException, file: Path) -> str:
    """` at line 3`, where the file itself is to blame."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f" at line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f" at line {lines[-1]}" if lines else ""
