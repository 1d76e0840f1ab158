"""Which files of a GPT-NeoX directory hold what.

A run saves `global_stepN/` beside `latest`, a file that names it. Models that were trained in a pipeline are stored by
layer, `layer_LL-model_TT-model_states.pt`; others by rank, `mp_rank_TT_model_states.pt`. TT is the rank.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compiler.errors import CheckpointError

_LAYER = re.compile(r"layer_(\d+)-model_(\d+)-model_states\.pt")
_RANK = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_OPTIMIZER = re.compile(r".*(optim_states|optimizer)\.pt|(bf16_)?zero_pp_rank_.*\.pt")
_STEP = re.compile(r"global_step(\d+)")
_LATEST = "latest"
_TOGETHER = "copy the missing files, or give a directory that holds the files of one run"


@dataclass(frozen=True)
class NeoxFiles:
    """The files of one saved step.

    Attributes:
        step: the folder that holds them.
        layers: the files of each layer by its number in the pipeline, one for each tensor-parallel rank; empty if
            the model is not stored by layer.
        ranks: otherwise the files of the ranks.
        ignored: files of the optimizer and of the run, which the model does not need.
    """

    step: Path
    layers: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    ranks: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def degree(self) -> int:
        """In how many tensor-parallel parts the model is stored."""
        return len(self.ranks) or len(next(iter(self.layers.values())))

    @property
    def names(self) -> tuple[str, ...]:
        """The files of the model, by name."""
        return self.ranks or tuple(name for names in self.layers.values() for name in names)


def holds_neox(path: Path) -> bool:
    """Whether a path looks like a GPT-NeoX directory. transformers writes such files beside its own, which count."""
    if not path.is_dir() or (path / "config.json").is_file():
        return False
    return (
        _holds_model(path) or any(_holds_model(step) for step in _steps(path)) or bool(_STEP.fullmatch(_latest(path)))
    )


def find_neox(path: Path) -> NeoxFiles:
    """The files of the step that `latest` names, or of the only one there is.

    Raises:
        CheckpointError: if `latest` names no step, there are several and no `latest`, or files are missing.
    """
    step = _step(path)
    names = sorted(file.name for file in step.iterdir() if file.suffix == ".pt" and file.is_file())
    by_layer: dict[int, dict[int, str]] = {}
    by_rank: dict[int, str] = {}
    ignored: list[str] = []
    strangers: list[str] = []
    for name in names:
        if match := _LAYER.fullmatch(name):
            by_layer.setdefault(int(match[1]), {})[int(match[2])] = name
        elif match := _RANK.fullmatch(name):
            by_rank[int(match[1])] = name
        else:
            (ignored if _OPTIMIZER.fullmatch(name) else strangers).append(name)
    if strangers:
        raise CheckpointError(
            f"{step} holds {strangers[0]}, whose place in a model is not known",
            hint="models of experts are not supported; move the file if it belongs to no model",
        )
    if not by_layer:
        files = _complete(step, by_rank, "mp_rank_{:02d}_model_states.pt", max(by_rank) + 1)
        return NeoxFiles(step, ranks=files, ignored=tuple(ignored))
    degree = 1 + max(rank for ranks in by_layer.values() for rank in ranks)
    layers = {
        layer: _complete(step, ranks, f"layer_{layer:02d}-model_{{:02d}}-model_states.pt", degree)
        for layer, ranks in sorted(by_layer.items())
    }
    return NeoxFiles(step, layers=layers, ignored=(*by_rank.values(), *ignored))


def _complete(step: Path, found: Mapping[int, str], pattern: str, degree: int) -> tuple[str, ...]:
    for rank in range(degree):
        if rank not in found:
            raise CheckpointError(
                f"{pattern.format(rank)} is missing from {step}: the model is stored in {degree} tensor-parallel parts",
                hint=_TOGETHER,
            )
    return tuple(found[rank] for rank in range(degree))


def _latest(path: Path) -> str:
    """The step that `latest` names; empty if there is no such file."""
    file = path / _LATEST
    return file.read_text("utf-8", errors="replace").strip() if file.is_file() else ""


def _holds_model(folder: Path) -> bool:
    return any(_LAYER.fullmatch(file.name) or _RANK.fullmatch(file.name) for file in folder.glob("*_states.pt"))


def _steps(path: Path) -> list[Path]:
    found = [folder for folder in path.iterdir() if _STEP.fullmatch(folder.name) and folder.is_dir()]
    return sorted(found, key=lambda folder: int(folder.name.removeprefix("global_step")))


def _step(path: Path) -> Path:
    if _holds_model(path):
        return path
    steps = [step for step in _steps(path) if _holds_model(step)]
    latest, name = path / _LATEST, _latest(path)
    if name:
        if Path(name).name != name or not (path / name).is_dir():
            there = f"give one that is there: {', '.join(step.name for step in steps)}" if steps else _TOGETHER
            raise CheckpointError(f"{latest} names {name!r}, which is no folder beside it", hint=there)
        if not _holds_model(path / name):
            raise CheckpointError(f"{path / name}, which {latest} names, holds no model", hint=_TOGETHER)
        return path / name
    if len(steps) > 1:
        raise CheckpointError(
            f"{path} holds {len(steps)} steps and no file {_LATEST!r} that names one",
            hint=f"give one of them, such as {steps[-1]}",
        )
    return steps[0]


def relative(folder: Path, path: Path) -> str:
    """What to call a path in the folder, or beside it: relative to the folder."""
    if path.is_relative_to(folder):
        return path.relative_to(folder).as_posix()
    return f"../{path.relative_to(folder.parent).as_posix()}"
