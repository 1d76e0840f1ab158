"""What the runners share: the job that the benchmark gives them, its stages, and what came of it.

A runner is started as `python on_TOOL.py job.json` by the tool's own interpreter. It imports nothing of llmc.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

CONTIGUOUS = torch.contiguous_format


@dataclass
class Job:
    """One tool, one recipe, one checkpoint.

    Attributes:
        model: the checkpoint.
        folder: where results go: the tool's own checkpoint into `checkpoint`, plain weights into `dense`.
        recipe: `algorithm`, `bits`, `group` and what else the recipe sets.
        windows: the token ids to calibrate with, all windows of one length.
        windows_file: the same as lines of JSON.
        threads: how many threads to compute with.
        dtype: the type to load the checkpoint in; `auto` for its own.
        started: when the process was started, in seconds of `time.time`.
        stages: seconds by stage.
        excluded: seconds that do not count.
    """

    model: Path
    folder: Path
    recipe: Mapping[str, Any]
    windows: list[list[int]]
    windows_file: Path
    threads: int
    dtype: str
    started: float
    stages: dict[str, float] = field(default_factory=dict)
    excluded: float = 0.0

    @classmethod
    def read(cls) -> Job:
        """The job that the command line names."""
        given = json.loads(Path(sys.argv[1]).read_text())
        windows = Path(given["windows"])
        torch.set_num_threads(given["threads"])
        return cls(
            Path(given["model"]),
            Path(given["folder"]),
            given["recipe"],
            [json.loads(line)["token_ids"] for line in windows.read_text().splitlines()],
            windows,
            given["threads"],
            given["dtype"],
            given["started"],
        )

    @property
    def checkpoint(self) -> Path:
        """Where the tool saves its checkpoint."""
        return self.folder / "checkpoint"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        started = time.perf_counter()
        yield
        self.stages[name] = time.perf_counter() - started

    @contextmanager
    def unmeasured(self) -> Iterator[None]:
        """Do something that no user of the tool would have to; it must not take much memory."""
        started = time.perf_counter()
        yield
        self.excluded += time.perf_counter() - started

    def measured(self, version: str) -> None:
        """Note how long the process took, and how much memory, now that the tool's result is saved.

        What a runner does afterwards, such as expanding weights, counts no more.
        """
        uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        found = {
            "version": version,
            "seconds": time.time() - self.started - self.excluded,
            "cpu_seconds": sum(use.ru_utime + use.ru_stime for use in uses),
            "stages": self.stages,
            "peak_bytes": max(_peak(), uses[1].ru_maxrss * 1024),
        }
        (self.folder / "measured.json").write_text(json.dumps(found))

    def load(self) -> Any:
        """The model as transformers loads it."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.model, dtype=self.dtype).eval()

    def save_dense(self, state: Mapping[str, Tensor]) -> None:
        """Write the checkpoint again in float32, with the values of a state dict, where the head may be missing.

        Raises:
            KeyError: if the state dict lacks a tensor of the checkpoint.
        """
        stored: dict[str, Tensor] = {}
        for path in sorted(self.model.glob("*.safetensors")):
            stored.update(load_file(path))
        dense = self.folder / "dense"
        dense.mkdir()
        heads = {name: stored[name] for name in ("lm_head.weight", "embed_out.weight") if name in stored}
        found = {name: (heads | dict(state))[name].detach().float() for name in stored}
        plain = {name: found[name].reshape(old.shape).clone(memory_format=CONTIGUOUS) for name, old in stored.items()}
        save_file(plain, dense / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((self.model / "config.json").read_text())
        config["dtype"] = config["torch_dtype"] = "float32"
        (dense / "config.json").write_text(json.dumps(config))
        shutil.copy(self.model / "tokenizer.json", dense)


def linears(model: Any) -> dict[str, Any]:
    """The linears of a transformers model by name, but for its head."""
    found = {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    return {name: part for name, part in found.items() if part is not model.get_output_embeddings()}


def _peak() -> int:
    """The most memory that this process has had in use (resident), in bytes; its parent's does not count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
