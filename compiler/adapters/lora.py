"""Adapter folders of PEFT that hold LoRA: `adapter_config.json` beside the weights. No tensor is read here.

A module has `lora_A [r, in]` and `lora_B [out, r]`, whose product, scaled, is added to its weight; an embedding has
`lora_embedding_A [r, vocabulary]` and `lora_embedding_B [width, r]`. With DoRA it has the norm of each row besides.
Modules that were trained as a whole, and biases, are stored under their own names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compiler.adapters.peft import CONFIG, weights_of_folder
from compiler.errors import CheckpointError, ConfigError
from compiler.frontends.json_file import read_object
from compiler.json_fields import Fields, shown
from compiler.store.stored_tensor import StoredTensor
from compiler.suggest import did_you_mean_path

_SAVE = "save it again with PEFT: model.save_pretrained(FOLDER)"
_MERGE = "let PEFT merge it: model.merge_and_unload().save_pretrained(FOLDER), and compile that"
_PREFIX = "base_model.model."
_KEY = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(\.default)?(\.(?P<word>weight|bias))?"
)
_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save(\.default)?)(?=\.)")

# Keys that change nothing of what is merged: which tensors there are says as much, or they matter in training only.
_INERT = (
    *("arrow_config", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying"),
    *("eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform"),
    *("loftq_config", "lora_dropout", "lora_ga_config", "megatron_core", "modules_to_save", "peft_type"),
    *("peft_version", "qalora_group_size", "revision", "runtime_config", "target_modules"),
)
_TAKEN = (
    *("alpha_pattern", "init_lora_weights", "lora_alpha", "lora_bias", "r", "rank_pattern", "task_type"),
    *("use_dora", "use_rslora"),
)
# What changes the base weights as training begins, so that the factors alone are not the whole change.
_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")


@dataclass(frozen=True)
class LowRank:
    """The change of a weight: `scaling * B @ A` is added to it.

    Attributes:
        module: the module's name.
        a: `[r, in]`; its file is absolute.
        b: `[out, r]`; the same.
        scaling: the factor.
        magnitude: with DoRA, the norm that each row gets, `[out]`; None without.
        embedding: whether the weight is a table of embeddings, `[in, out]`.
    """

    module: str
    a: StoredTensor
    b: StoredTensor
    scaling: float
    magnitude: StoredTensor | None = None
    embedding: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight."""
        out, width = self.b.shape[0], self.a.shape[1]
        return (width, out) if self.embedding else (out, width)


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA adapter.

    Attributes:
        path: its folder, absolute.
        changes: the weights that it changes.
        replaced: tensors that it replaces, by the checkpoint's names; their files are absolute.
        keeps_ties: whether a head that is tied to the embedding stays so, whichever of the two it changes.
    """

    path: Path
    changes: tuple[LowRank, ...]
    replaced: Mapping[str, StoredTensor]
    keeps_ties: bool = False


def read_lora_folder(given: Path) -> LoraAdapter:
    """The adapter in a folder, as its config and the header of its weights describe it.

    Raises:
        ConfigError: if the config cannot be read, is not of LoRA, or of a kind of it that is not supported, naming the
            key; or contradicts the weights.
        CheckpointError: if the folder or one of its files is missing or damaged, or holds a tensor that is not known.
    """
    folder = given.expanduser().absolute()
    path = folder / CONFIG
    if not folder.is_dir():
        near = did_you_mean_path(given, lambda each: (each / CONFIG).is_file())
        raise CheckpointError(f"there is no adapter folder {given}{near}", hint=f"give the folder that holds {CONFIG}")
    if not path.is_file():
        raise CheckpointError(f"{given} has no {CONFIG}", hint="give the folder of an adapter that PEFT has saved")
    fields = Fields(read_object(path), label=f"{path}: the key", error=ConfigError, hint=_SAVE)
    _check_kind(path, fields)
    file, stored = weights_of_folder(folder)
    parts: dict[str, dict[str, StoredTensor]] = {}
    replaced: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        _check_float(file, tensor)
        found = _KEY.fullmatch(name.removeprefix(_PREFIX))
        if found is None:
            plain = _WRAPPERS.sub("", name.removeprefix(_PREFIX))
            replaced[plain] = replace(tensor, name=plain, file=file)
            continue
        if found["word"] == "bias":
            raise ConfigError(f"{file}: {name!r} is a bias of a factor, which is not read", hint=_MERGE)
        module, part = found["module"], found["part"]
        # Named after the module, as the weight is that it belongs to.
        parts.setdefault(module, {})[part] = replace(tensor, name=f"{module}.{part}", file=file)
    if not parts and not replaced:
        raise CheckpointError(f"{file} holds no tensor", hint=_SAVE)
    changes = tuple(_change(file, fields, module, found) for module, found in parts.items())
    return LoraAdapter(folder, changes, replaced, fields.take("ensure_weight_tying", bool, default=False))


def _check_kind(path: Path, fields: Fields) -> None:
    """ConfigError for what is no LoRA, or one that does more than change weights by factors."""
    kind = fields.string("peft_type")
    if kind != "LORA":
        raise ConfigError(
            f"{path}: the adapter is of the kind {kind!r}; the pass lora merges those of the kind 'LORA'",
            hint="adapters of virtual tokens are for the pass prompts" if "TUNING" in kind else _MERGE,
        )
    task = fields.values.get("task_type")
    if task not in (None, "CAUSAL_LM", "FEATURE_EXTRACTION"):
        raise ConfigError(
            f"{fields.says('task_type')}: it is for a model with another head",
            hint="give an adapter that was trained for the task type CAUSAL_LM",
        )
    initial = fields.values.get("init_lora_weights")
    if isinstance(initial, str) and initial.lower().startswith(_CHANGING):
        raise ConfigError(
            f"{fields.says('init_lora_weights')}, which changes the base weights, too",
            hint="save it with PEFT's path_initial_model_for_weight_conversion, which makes a plain LoRA of it",
        )
    for key, value in fields.values.items():
        if value and key not in _INERT and key not in _TAKEN:
            raise ConfigError(f"{path}: the key {key!r} is {shown(value)}, which is not supported", hint=_MERGE)


def _check_float(file: str, tensor: StoredTensor) -> None:
    if tensor.dtype is None or not tensor.dtype.is_float:
        raise CheckpointError(f"{file}: {tensor.name!r} has the element type {tensor.spelling}", hint=_SAVE)


def _change(file: str, fields: Fields, module: str, parts: Mapping[str, StoredTensor]) -> LowRank:
    """The change of a module's weight."""
    embedding = any("embedding" in part for part in parts)
    names = [f"lora_{'embedding_' if embedding else ''}{letter}" for letter in "AB"]
    for name in names:
        if name not in parts:
            raise CheckpointError(f"{file} has no {name} of {module!r}", hint="copy the whole adapter folder again")
    a, b = (parts[name] for name in names)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise CheckpointError(
            f"{file}: {names[0]} of {module!r} is {list(a.shape)} and {names[1]} {list(b.shape)}, "
            "which are no [r, in] and [out, r]",
            hint=_SAVE,
        )
    rank = a.shape[0]
    said = _by_pattern(fields, "rank_pattern", module, fields.integer("r", 1))
    if rank != said:
        raise ConfigError(
            f"{file}: the rank of {module!r} is {rank}; {CONFIG} says {shown(said)}",
            hint="the config and the weights belong to different adapters: copy the whole folder again",
        )
    alpha = float(_by_pattern(fields, "alpha_pattern", module, fields.take("lora_alpha", float)))
    scaling = alpha / (math.sqrt(rank) if fields.take("use_rslora", bool, default=False) else rank)
    magnitude = parts.get("lora_magnitude_vector")
    if bool(fields.take("use_dora", bool, default=False)) != (magnitude is not None):
        raise ConfigError(
            f"{fields.says('use_dora')}, and {file} has {'a' if magnitude else 'no'} lora_magnitude_vector "
            f"of {module!r}",
            hint="the config and the weights belong to different adapters: copy the whole folder again",
        )
    if magnitude is not None and embedding:
        raise ConfigError(f"{file}: {module!r} is an embedding changed by DoRA, which is not read", hint=_MERGE)
    if magnitude is not None and math.prod(magnitude.shape) != b.shape[0]:
        raise CheckpointError(
            f"{file}: lora_magnitude_vector of {module!r} is {list(magnitude.shape)}, not a number for each of "
            f"{b.shape[0]} rows",
            hint=_SAVE,
        )
    return LowRank(module, a, b, scaling, magnitude, embedding)


def _by_pattern(fields: Fields, key: str, module: str, usual: Any) -> Any:
    """What the first pattern that the end of a module's name matches says, as PEFT matches them; else the usual."""
    patterns: Mapping[str, Any] = fields.take(key, dict, default={})
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error as error:
            raise fields.invalid(key, f"{pattern!r} is no regular expression ({error})") from None
    return usual
