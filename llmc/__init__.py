"""llmc, a functional graph compiler for LLM checkpoints.

    engine = llmc.load(llmc.compile("path/to/checkpoint", "my.engine").path)
    print(engine.generate("Once upon a time", max_new_tokens=32)[0].text)

Names are imported when they are first used, so that `import llmc` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from compiler.errors import LlmcError
from llmc.version import API_VERSION, __version__

if TYPE_CHECKING:
    from compiler.ir.diff import GraphDiff, format_diff
    from compiler.ir.diff import diff_graphs as diff
    from compiler.ir.files import read_graph, write_graph
    from compiler.ir.graph import Graph
    from compiler.ir.parser import parse_graph as parse
    from compiler.ir.printer import print_graph as to_text
    from compiler.passes import register_pass
    from llmc.benchmarking.bench import Benchmark, BenchOptions, bench
    from llmc.compiling.driver import Compiled, compile
    from llmc.compiling.dry_run import DryRun, dry_run
    from llmc.evaluation.perplexity import Perplexity, measure_perplexity
    from llmc.evaluation.summaries import Summaries, SummarySettings
    from llmc.evaluation.summarize import summarize
    from llmc.exporting.driver import Exported, export
    from llmc.models import lift
    from llmc.opt import optimize
    from llmc.tracing.report import ValueTrace
    from llmc.tracing.trace import trace
    from llmc.verification.report import Verification
    from llmc.verification.verify import verify
    from runtime.engine_dir.manifest import Manifest
    from runtime.generation.completion import Completion
    from runtime.generation.engine import Engine
    from runtime.generation.sampling_params import SamplingParams
    from runtime.load.loading import load_engine as load


_HOMES = {
    "BenchOptions": "llmc.benchmarking.bench",
    "Benchmark": "llmc.benchmarking.bench",
    "Compiled": "llmc.compiling.driver",
    "Completion": "runtime.generation.completion",
    "DryRun": "llmc.compiling.dry_run",
    "Engine": "runtime.generation.engine",
    "Exported": "llmc.exporting.driver",
    "Graph": "compiler.ir.graph",
    "GraphDiff": "compiler.ir.diff",
    "Manifest": "runtime.engine_dir.manifest",
    "Perplexity": "llmc.evaluation.perplexity",
    "SamplingParams": "runtime.generation.sampling_params",
    "Summaries": "llmc.evaluation.summaries",
    "SummarySettings": "llmc.evaluation.summaries",
    "ValueTrace": "llmc.tracing.report",
    "Verification": "llmc.verification.report",
    "bench": "llmc.benchmarking.bench",
    "compile": "llmc.compiling.driver",
    "diff": "compiler.ir.diff:diff_graphs",
    "dry_run": "llmc.compiling.dry_run",
    "export": "llmc.exporting.driver",
    "format_diff": "compiler.ir.diff",
    "lift": "llmc.models",
    "load": "runtime.load.loading:load_engine",
    "measure_perplexity": "llmc.evaluation.perplexity",
    "optimize": "llmc.opt",
    "parse": "compiler.ir.parser:parse_graph",
    "read_graph": "compiler.ir.files",
    "register_pass": "compiler.passes",
    "summarize": "llmc.evaluation.summarize",
    "to_text": "compiler.ir.printer:print_graph",
    "trace": "llmc.tracing.trace",
    "verify": "llmc.verification.verify",
    "write_graph": "compiler.ir.files",
}

__all__ = [
    "API_VERSION",
    "BenchOptions",
    "Benchmark",
    "Compiled",
    "Completion",
    "DryRun",
    "Engine",
    "Exported",
    "Graph",
    "GraphDiff",
    "LlmcError",
    "Manifest",
    "Perplexity",
    "SamplingParams",
    "Summaries",
    "SummarySettings",
    "ValueTrace",
    "Verification",
    "__version__",
    "bench",
    "compile",
    "diff",
    "dry_run",
    "export",
    "format_diff",
    "lift",
    "load",
    "measure_perplexity",
    "optimize",
    "parse",
    "read_graph",
    "register_pass",
    "summarize",
    "to_text",
    "trace",
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
