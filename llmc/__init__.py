"""llmc, a functional graph compiler for LLM checkpoints.

    engine = llmc.load(llmc.compile("path/to/checkpoint", "my.engine").path)
    print(engine.generate("Once upon a time", max_new_tokens=32)[0].text)

Names are imported when they are first used, so that `import llmc` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from compiler.errors import LlmcError

if TYPE_CHECKING:
    from compiler.ir.diff import GraphDiff
    from compiler.ir.diff import diff_graphs as diff
    from compiler.ir.diff_text import format_diff
    from compiler.ir.files import read_graph, write_graph
    from compiler.ir.graph import Graph
    from compiler.ir.parser import parse_graph as parse
    from compiler.ir.printer import print_graph as to_text
    from compiler.passes import register_pass
    from llmc.compiling import Compiled, compile
    from llmc.dry_running import DryRun, dry_run
    from llmc.models import lift
    from llmc.opt import optimize
    from llmc.perplexity import Perplexity, measure_perplexity
    from llmc.verification import Verification
    from llmc.verifying import verify
    from runtime.engine import Completion, Engine
    from runtime.loading import load_engine as load
    from runtime.manifest import Manifest

__version__ = "0.1.0"

_HOMES = {
    "Compiled": "llmc.compiling",
    "Completion": "runtime.engine",
    "DryRun": "llmc.dry_running",
    "Engine": "runtime.engine",
    "Graph": "compiler.ir.graph",
    "GraphDiff": "compiler.ir.diff",
    "Manifest": "runtime.manifest",
    "Perplexity": "llmc.perplexity",
    "Verification": "llmc.verification",
    "compile": "llmc.compiling",
    "diff": "compiler.ir.diff:diff_graphs",
    "dry_run": "llmc.dry_running",
    "format_diff": "compiler.ir.diff_text",
    "lift": "llmc.models",
    "load": "runtime.loading:load_engine",
    "measure_perplexity": "llmc.perplexity",
    "optimize": "llmc.opt",
    "parse": "compiler.ir.parser:parse_graph",
    "read_graph": "compiler.ir.files",
    "register_pass": "compiler.passes",
    "to_text": "compiler.ir.printer:print_graph",
    "verify": "llmc.verifying",
    "write_graph": "compiler.ir.files",
}

__all__ = [
    "Compiled",
    "Completion",
    "DryRun",
    "Engine",
    "Graph",
    "GraphDiff",
    "LlmcError",
    "Manifest",
    "Perplexity",
    "Verification",
    "__version__",
    "compile",
    "diff",
    "dry_run",
    "format_diff",
    "lift",
    "load",
    "measure_perplexity",
    "optimize",
    "parse",
    "read_graph",
    "register_pass",
    "to_text",
    "verify",
    "write_graph",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'llmc' has no attribute {name!r}")
    module, _, original = home.partition(":")
    value = getattr(import_module(module), original or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
