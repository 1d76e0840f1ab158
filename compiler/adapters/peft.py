"""Adapter folders of PEFT that hold virtual tokens: `adapter_config.json` beside the weights. No tensor is read here.

`PROMPT_TUNING` and `P_TUNING` store an embedding for each virtual token, `PREFIX_TUNING` a row of keys and values of
all layers. PEFT stores what its encoders (`P_TUNING`, and `PREFIX_TUNING` with `prefix_projection`) have computed, not
the encoders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from compiler.adapters.adapter import KINDS, PREFIX, PromptAdapter
from compiler.errors import CheckpointError, ConfigError
from compiler.frontends.json_file import read_object
from compiler.frontends.safetensors_file import read_safetensors
from compiler.frontends.torch_file import read_torch_file
from compiler.json_fields import Fields
from compiler.store.stored_tensor import StoredTensor
from compiler.suggest import did_you_mean_path

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
TABLE = "prompt_embeddings"
"""The one tensor of such a folder."""

_SAVE = "save it again with PEFT: model.save_pretrained(FOLDER)"
_NO_MEND = frozenset({"MULTITASK_PROMPT_TUNING", "ADAPTION_PROMPT", "CARTRIDGE", "CPT", "XLORA", "POLY"})


def read_peft_folder(given: Path) -> PromptAdapter:
    """The adapter in a folder, as its config and the header of its weights describe it.

    Raises:
        ConfigError: if the config cannot be read, is of a kind that is not supported, or contradicts the weights.
        CheckpointError: if the folder or one of its files is missing or damaged.
    """
    folder = given.absolute()
    path = folder / CONFIG
    if not folder.is_dir():
        near = did_you_mean_path(given, lambda each: (each / CONFIG).is_file())
        raise CheckpointError(f"there is no adapter folder {given}{near}", hint=f"give the folder that holds {CONFIG}")
    if not path.is_file():
        raise CheckpointError(f"{given} has no {CONFIG}", hint="give the folder of an adapter that PEFT has saved")
    fields = Fields(read_object(path), label=f"{path}: the key", error=ConfigError, hint=_SAVE)
    kind = _kind(path, fields)
    _check_model(path, fields)
    tokens, width = fields.integer("num_virtual_tokens", 1), fields.integer("token_dim", 1)
    layers, heads = fields.optional_integer("num_layers"), fields.optional_integer("num_attention_heads")
    columns = width
    if kind == PREFIX:
        layers, heads = fields.integer("num_layers", 1), fields.integer("num_attention_heads", 1)
        columns = 2 * layers * width
        if width % heads:
            raise fields.invalid("token_dim", f"the {heads} heads of 'num_attention_heads' must divide it")
    return PromptAdapter(folder, kind, tokens, width, layers, heads, _table(folder, (tokens, columns)))


def _kind(path: Path, fields: Fields) -> str:
    kind = fields.string("peft_type")
    if kind in KINDS:
        return kind
    hint = f"adapters of virtual tokens are {', '.join(KINDS)}"
    if kind == "LORA":
        hint = f"the pass lora merges it: --passes lora={path.parent}"
        raise ConfigError(f"{path}: the adapter is of the kind {kind!r}, which has no virtual tokens", hint=hint)
    if kind not in _NO_MEND:
        merge = "model.merge_and_unload().save_pretrained(FOLDER)"
        hint = f"let PEFT merge it into its checkpoint ({merge}), and compile that; {hint}"
    raise ConfigError(f"{path}: the adapter is of the kind {kind!r}, which is not read", hint=hint)


def _check_model(path: Path, fields: Fields) -> None:
    """ConfigError if the adapter is for models that are no decoders."""
    modules = fields.optional_integer("num_transformer_submodules")
    if modules is not None and modules != 1:
        raise ConfigError(
            f"{fields.says('num_transformer_submodules')}: it is for a model of an encoder and a decoder",
            hint="give an adapter that was trained for the task type CAUSAL_LM",
        )


def weights_of_folder(folder: Path) -> tuple[str, Mapping[str, StoredTensor]]:
    """The file of an adapter's weights, and its tensors by name.

    Raises:
        CheckpointError: if the folder has none, or the file is damaged.
    """
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(
            f"{folder} holds no weights: neither {WEIGHTS[0]} nor {WEIGHTS[1]}", hint="copy the whole adapter folder"
        )
    file = str(path)
    return file, read_safetensors(path, file) if path.suffix == ".safetensors" else read_torch_file(path, file)


def _table(folder: Path, shape: tuple[int, int]) -> StoredTensor:
    """The table of the virtual tokens; its file is absolute."""
    file, tensors = weights_of_folder(folder)
    unknown = next((name for name in tensors if name != TABLE), None)
    if unknown is not None or TABLE not in tensors:
        what = f"the tensor {unknown!r}, which has no place here" if unknown is not None else f"no tensor {TABLE!r}"
        raise CheckpointError(
            f"{file} has {what}: the file of an adapter of virtual tokens has {TABLE!r} alone", hint=_SAVE
        )
    table = tensors[TABLE]
    if table.dtype is None or not table.dtype.is_float:
        raise CheckpointError(f"{file}: {TABLE!r} has the element type {table.spelling}", hint=_SAVE)
    if table.shape != shape:
        raise CheckpointError(
            f"{file}: {TABLE!r} has the shape {list(table.shape)}; {CONFIG} describes {list(shape)}",
            hint="the config and the weights belong to different adapters: copy the whole folder again",
        )
    return replace(table, file=file)
