"""llmc, a functional graph compiler for LLM checkpoints.

    engine = llmc.load(llmc.compile("path/to/checkpoint", "my.engine").path)
    print(engine.generate("Once upon a time", max_new_tokens=32)[0].text)

Passes, ops, families and targets of your own need no other import: `llmc` has what passes and ops are made of,
`llmc.families` and `llmc.targets` the rest. docs/api.md lists all of it. Names are imported when they are first used,
so that `import llmc` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from compiler.errors import LlmcError
from llmc.version import API_VERSION, __version__

if TYPE_CHECKING:
    from compiler.backend_trt.emission import Emission, emits
    from compiler.errors import GraphError, PassError
    from compiler.ir.builder import Builder
    from compiler.ir.diff import GraphDiff, format_diff
    from compiler.ir.diff import diff_graphs as diff
    from compiler.ir.dims import symbol
    from compiler.ir.dtypes import DType
    from compiler.ir.evaluators.core import evaluates
    from compiler.ir.files import read_graph, write_graph
    from compiler.ir.graph import DimRange, Graph
    from compiler.ir.interpreter import Interpreter
    from compiler.ir.matching import Match
    from compiler.ir.op import Op, OpKind, Value
    from compiler.ir.op import op as register_op
    from compiler.ir.op_kinds import ops
    from compiler.ir.ops.check import require
    from compiler.ir.parser import parse_graph as parse
    from compiler.ir.patterns import P
    from compiler.ir.printer import print_graph as to_text
    from compiler.ir.rewrite import RewriteBuilder, sweep
    from compiler.ir.rules import Decline, Rule, apply_rules, rule
    from compiler.ir.tensor_ref import TensorRef
    from compiler.ir.types import TensorType
    from compiler.ir.weight_op import register_weight_op
    from compiler.passes import note, register_pass
    from compiler.passes.parallel import OpFactors, sharding_rule
    from compiler.store.tensor_files import read_tensors
    from llmc import families, targets
    from llmc.benchmarking.bench import Benchmark, BenchOptions, bench
    from llmc.compiling.driver import Compiled, compile
    from llmc.compiling.dry_run import DryRun, dry_run
    from llmc.elementwise import register_elementwise_op
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
    from runtime.executors.torch.lowering import Lowering, lowers
    from runtime.generation.completion import Completion
    from runtime.generation.engine import Engine
    from runtime.generation.sampling_params import SamplingParams
    from runtime.load.loading import load_engine as load


_MODULES = ("families", "targets")

_HOMES = {
    "BenchOptions": "llmc.benchmarking.bench",
    "Benchmark": "llmc.benchmarking.bench",
    "Builder": "compiler.ir.builder",
    "Compiled": "llmc.compiling.driver",
    "Completion": "runtime.generation.completion",
    "DType": "compiler.ir.dtypes",
    "Decline": "compiler.ir.rules",
    "DimRange": "compiler.ir.graph",
    "DryRun": "llmc.compiling.dry_run",
    "Emission": "compiler.backend_trt.emission",
    "Engine": "runtime.generation.engine",
    "Exported": "llmc.exporting.driver",
    "Graph": "compiler.ir.graph",
    "GraphDiff": "compiler.ir.diff",
    "GraphError": "compiler.errors",
    "Interpreter": "compiler.ir.interpreter",
    "Lowering": "runtime.executors.torch.lowering",
    "Manifest": "runtime.engine_dir.manifest",
    "Match": "compiler.ir.matching",
    "Op": "compiler.ir.op",
    "OpFactors": "compiler.passes.parallel",
    "OpKind": "compiler.ir.op",
    "P": "compiler.ir.patterns",
    "PassError": "compiler.errors",
    "Perplexity": "llmc.evaluation.perplexity",
    "RewriteBuilder": "compiler.ir.rewrite",
    "Rule": "compiler.ir.rules",
    "SamplingParams": "runtime.generation.sampling_params",
    "Summaries": "llmc.evaluation.summaries",
    "SummarySettings": "llmc.evaluation.summaries",
    "TensorRef": "compiler.ir.tensor_ref",
    "TensorType": "compiler.ir.types",
    "Value": "compiler.ir.op",
    "ValueTrace": "llmc.tracing.report",
    "Verification": "llmc.verification.report",
    "apply_rules": "compiler.ir.rules",
    "bench": "llmc.benchmarking.bench",
    "compile": "llmc.compiling.driver",
    "diff": "compiler.ir.diff:diff_graphs",
    "dry_run": "llmc.compiling.dry_run",
    "emits": "compiler.backend_trt.emission",
    "evaluates": "compiler.ir.evaluators.core",
    "export": "llmc.exporting.driver",
    "format_diff": "compiler.ir.diff",
    "lift": "llmc.models",
    "load": "runtime.load.loading:load_engine",
    "lowers": "runtime.executors.torch.lowering",
    "measure_perplexity": "llmc.evaluation.perplexity",
    "note": "compiler.passes",
    "ops": "compiler.ir.op_kinds",
    "optimize": "llmc.opt",
    "parse": "compiler.ir.parser:parse_graph",
    "read_graph": "compiler.ir.files",
    "read_tensors": "compiler.store.tensor_files",
    "register_elementwise_op": "llmc.elementwise",
    "register_op": "compiler.ir.op:op",
    "register_pass": "compiler.passes",
    "register_weight_op": "compiler.ir.weight_op",
    "require": "compiler.ir.ops.check",
    "rule": "compiler.ir.rules",
    "sharding_rule": "compiler.passes.parallel",
    "summarize": "llmc.evaluation.summarize",
    "sweep": "compiler.ir.rewrite",
    "symbol": "compiler.ir.dims",
    "to_text": "compiler.ir.printer:print_graph",
    "trace": "llmc.tracing.trace",
    "verify": "llmc.verification.verify",
    "write_graph": "compiler.ir.files",
}

__all__ = [
    "API_VERSION",
    "BenchOptions",
    "Benchmark",
    "Builder",
    "Compiled",
    "Completion",
    "DType",
    "Decline",
    "DimRange",
    "DryRun",
    "Emission",
    "Engine",
    "Exported",
    "Graph",
    "GraphDiff",
    "GraphError",
    "Interpreter",
    "LlmcError",
    "Lowering",
    "Manifest",
    "Match",
    "Op",
    "OpFactors",
    "OpKind",
    "P",
    "PassError",
    "Perplexity",
    "RewriteBuilder",
    "Rule",
    "SamplingParams",
    "Summaries",
    "SummarySettings",
    "TensorRef",
    "TensorType",
    "Value",
    "ValueTrace",
    "Verification",
    "__version__",
    "apply_rules",
    "bench",
    "compile",
    "diff",
    "dry_run",
    "emits",
    "evaluates",
    "export",
    "families",
    "format_diff",
    "lift",
    "load",
    "lowers",
    "measure_perplexity",
    "note",
    "ops",
    "optimize",
    "parse",
    "read_graph",
    "read_tensors",
    "register_elementwise_op",
    "register_op",
    "register_pass",
    "register_weight_op",
    "require",
    "rule",
    "sharding_rule",
    "summarize",
    "sweep",
    "symbol",
    "targets",
    "to_text",
    "trace",
    "verify",
    "write_graph",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"llmc.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'llmc' has no attribute {name!r}")
    module, _, original = home.partition(":")
    value = getattr(import_module(module), original or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
