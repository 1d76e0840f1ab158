"""What compilations have in common, those that write an engine and those that only try: phases, notes, the model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from compiler.frontends import Checkpoint, open_checkpoint
from compiler.frontends import lift as lift_checkpoint
from compiler.frontends.special_tokens import special_tokens
from compiler.ir.graph import Graph
from compiler.ir.step import StepDim
from compiler.passes.quant.calibration.source import CalibrationSource
from compiler.progress import Report
from llmc.compiling.request import CompileRequest
from llmc.compiling.tokenizer_export import write_tokenizer
from llmc.naming import checkpoint_folder
from llmc.progress import Phases
from runtime.engine_dir.manifest import NoTokenizer, SpecialTokens
from runtime.generation.generation_config import GenerationDefaults, generation_defaults


@dataclass
class Job:
    """What accumulates while an engine is made."""

    progress: Phases
    timings: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str) -> Iterator[Report]:
        """Time a phase; yields its own progress function."""
        started = time.perf_counter()
        with self.progress.phase(name) as report:
            yield report
        self.timings[name] = time.perf_counter() - started


def _beyond_training(graph: Graph) -> list[str]:
    """That sequences may be longer than those that the model was trained on, if they may."""
    longest, context = graph.dims[StepDim.CAPACITY].max, int(str(graph.facts["context_length"]))
    if longest <= context:
        return []
    said = f"sequences may have {longest} tokens, but the model was trained for {context}"
    return [f"{said}: what it writes beyond them may be poor"]


def export_tokenizer(job: Job, checkpoint: Checkpoint, folder: Path) -> str | NoTokenizer:
    """See `llmc.compiling.tokenizer_export.write_tokenizer`; if there is none, that is noted."""
    with job.phase("tokenizer"):
        written = write_tokenizer(checkpoint.tokenizer, folder, job.notes.append)
    if isinstance(written, NoTokenizer):
        why = f"{written.reason}; {written.mend}"
        job.notes.append(f"the engine has no tokenizer: {why}, or give llmc run token ids (--prompt-ids)")
    return written


@dataclass(frozen=True)
class LiftedModel:
    """What lifting a checkpoint gives.

    Attributes:
        checkpoint: the checkpoint.
        graph: its graph before any pass.
        tokens: its special tokens.
        generation: what its `generation_config.json` says about requests.
        calibration: what its passes calibrate with.
    """

    checkpoint: Checkpoint
    graph: Graph
    tokens: SpecialTokens
    generation: GenerationDefaults
    calibration: CalibrationSource


def lift_model(job: Job, request: CompileRequest) -> LiftedModel:
    """Lift the model of a request; ConfigError or CheckpointError if that cannot be done."""
    with job.phase("lift"):
        checkpoint = open_checkpoint(
            checkpoint_folder(request.model), dummy_weights=request.dummy_weights, source=request.source
        )
        graph = lift_checkpoint(checkpoint, limits=request.limits)
        family = str(graph.facts["family"])
        tokens = SpecialTokens(**special_tokens(family, checkpoint.config, checkpoint.generation_config))
        vocab_size = int(str(graph.facts["vocab_size"]))
        generation = generation_defaults(checkpoint.generation_config, vocab_size)
    job.notes += [*checkpoint.notes, *_beyond_training(graph), *generation.notes]
    made_up = vocab_size if checkpoint.dummy_weights else None
    calibration = request.calibration.source(checkpoint.tokenizer, job.progress, made_up=made_up)
    calibration.check(graph)
    return LiftedModel(checkpoint, graph, tokens, generation, calibration)
