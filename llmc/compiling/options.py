"""The options of a compilation: one list of them for Python and for the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from compiler.backend_trt import BuildOptions
from compiler.ir.frozen import EMPTY
from compiler.suggest import did_you_mean
from llmc.compiling.targets import Targets
from llmc.pipeline import Passes

_OF_TARGETS = frozenset(field.name for field in dataclasses.fields(BuildOptions))


@dataclass(frozen=True)
class CompileOptions:
    """How a checkpoint is compiled.

    Attributes:
        passes: rewrites in the order given: a text such as `quant=awq,tp=2`, or a list of passes and such texts;
            `llmc passes` lists those that have names.
        prompts: adapter folders of PEFT with virtual tokens, by the names of their tasks: `{"sentiment": "folder"}`.
            They become the pass `prompts` before those of `passes`.
        target: what is built: `auto`, a text such as `tensorrt-rtx:workers=1`, or a list of targets and such texts;
            `llmc targets` lists those that there are.
        dtype: the element type to compute in: `float32`, `float16` or `bfloat16`; the checkpoint's own if None.
        max_batch: how many sequences the engine runs at once.
        max_input: how many tokens a prompt may have; `max_seq` if None.
        max_seq: how many tokens a sequence may have, prompt and new ones; the model's context length if None.
        dummy_weights: whether to make weights up, so that `config.json` suffices.
        weights: a file of weights, instead of those in the checkpoint's folder.
        weights_format: how weights are stored where no file says it, such as `gptq:bits=4:group=128`.
        scales: a file of scales of AMMO or ModelOpt, which weights, inputs and caches are quantized with.
        build: options of targets by name, such as `{"workers": 1}`: each changes the targets that have it. Those of
            TensorRT may be given as `BuildOptions`.
        dump_ir: a folder for the graph's text after lifting and after each pass.
        fold_layers: whether these texts leave out layers that are as others; they are for readers then.
        plugins: Python files that register passes, ops, targets or families of models; what installed packages offer is
            there in any case.
        explain: whether to gather what the passes did, and why rules declined.
        calib: a text to calibrate with, or documents, one per line of JSON (`.jsonl`), for passes that do; the text
        that
            comes with the compiler if None.
        calib_samples: how many windows of it to use; as many as it has, up to 128, if None.
        calib_length: how many tokens a window has; 512, or `max_input` if that is less, if None.
        calib_seed: decides which windows are used, if there are more.
        report: of which quantized ops the error of outputs is measured: `full`: of all; `quick`: of so many that it
            takes less than a tenth of the time; `off`: of none. What calibrates anyway measures all of its ops, unless
            `off`.
    """

    passes: Passes = ""
    prompts: Mapping[str, str | Path] = EMPTY
    target: Targets = "auto"
    dtype: str | None = None
    max_batch: int = 8
    max_input: int | None = None
    max_seq: int | None = None
    dummy_weights: bool = False
    weights: str | Path | None = None
    weights_format: str | None = None
    scales: str | Path | None = None
    build: Mapping[str, Any] | BuildOptions | None = EMPTY
    dump_ir: str | Path | None = None
    fold_layers: bool = False
    plugins: Sequence[str | Path] = ()
    explain: bool = False
    calib: str | Path | None = None
    calib_samples: int | None = None
    calib_length: int | None = None
    calib_seed: int = 0
    report: str = "quick"

    def changed(self, changes: Mapping[str, Any]) -> CompileOptions:
        """These options with some others; TypeError, with a suggestion, for a name that is none of them."""
        known = [field.name for field in dataclasses.fields(self)]
        for name, value in changes.items():
            if name in _OF_TARGETS:
                raise TypeError(f"{name!r} is an option of targets: write build={{{name!r}: {value!r}}}")
            if name not in known:
                raise TypeError(f"a compilation has no option {name!r}{did_you_mean(name, known)}")
        return dataclasses.replace(self, **changes)

    @property
    def target_options(self) -> Mapping[str, Any]:
        """The options of targets that are given: those of `BuildOptions` that have other values than their defaults."""
        if not isinstance(self.build, BuildOptions):
            return self.build or EMPTY
        values = {field.name: getattr(self.build, field.name) for field in dataclasses.fields(BuildOptions)}
        usual = BuildOptions()
        return {name: value for name, value in values.items() if value != getattr(usual, name)}


class CompileKeywords(TypedDict, total=False):
    """The types of `CompileOptions`, for those who check calls of `llmc.compile`."""

    passes: Passes
    prompts: Mapping[str, str | Path]
    target: Targets
    dtype: str | None
    max_batch: int
    max_input: int | None
    max_seq: int | None
    dummy_weights: bool
    weights: str | Path | None
    weights_format: str | None
    scales: str | Path | None
    build: Mapping[str, Any] | BuildOptions | None
    dump_ir: str | Path | None
    fold_layers: bool
    plugins: Sequence[str | Path]
    explain: bool
    calib: str | Path | None
    calib_samples: int | None
    calib_length: int | None
    calib_seed: int
    report: str
