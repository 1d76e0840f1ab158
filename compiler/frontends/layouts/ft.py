"""FasterTransformer directories: `config.ini` and raw files `model.*.bin`, in any number of tensor-parallel parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compiler.errors import CheckpointError
from compiler.frontends.checkpoint import Checkpoint, StoredWeights
from compiler.frontends.layouts.ft_config import (
    FtModel,
    gptj_config,
    mpt_config,
    neox_config,
    opt_config,
    read_model,
)
from compiler.frontends.layouts.ft_files import CONFIG, FtFiles, ft_folder, holds_ft
from compiler.frontends.layouts.ft_int8 import Int8
from compiler.frontends.layouts.ft_linears import FtLayers, Tensors
from compiler.frontends.layouts.ft_tensors import gptj_tensors, mpt_tensors, neox_tensors, opt_tensors
from compiler.frontends.layouts.registry import layout
from compiler.frontends.layouts.tokenizer_file import find_tokenizer

_START = 1 << 20  # bytes that tell a head from the embedding
_HEAD = "lm_head.weight"
_PROMPTS = ("prompt_table.", "prefix_prompt.")


@layout("fastertransformer", holds_ft)
def open_ft(path: Path) -> Checkpoint:
    """Open the directory, or the one that holds its parts.

    Raises:
        CheckpointError: if files are missing, are not used, or have other sizes than `config.ini` says.
        ConfigError: if a key of `config.ini` is missing or wrong, or the model is not supported.
    """
    place = ft_folder(path)
    model = read_model(place / CONFIG)
    files = FtFiles(path, place, model.dtype)
    _check_degree(model, files)
    int8 = Int8(model, files)
    config, tensors = _lifted(FtLayers(model, files, int8))
    if int8.options is not None:
        config["quantization_config"] = int8.options
    int8.finish(files)
    prompts = files.drop(lambda key: key.startswith(_PROMPTS))
    files.finish()
    return Checkpoint(
        path,
        config,
        lambda: StoredWeights(files.used, tensors),
        config_files=[(place / CONFIG).relative_to(path).as_posix()],
        tokenizer_file=find_tokenizer(path, [place]),
        notes=[*_notes(model, exact_gelu=_is_exact(config)), *int8.notes, *_prompt_notes(prompts)],
    )


def _lifted(f: FtLayers) -> tuple[dict[str, Any], Tensors]:
    """The config and the tensors that transformers has."""
    m, files = f.model, f.files
    tied = not files.has(_HEAD)
    match m.family:
        case "gpt_neox":
            return {**neox_config(m), "tie_word_embeddings": tied}, neox_tensors(f)
        case "gptj":
            return gptj_config(m), gptj_tensors(f)
        case "opt":
            final = files.has("final_layernorm.weight")
            return opt_config(m, final_norm=final, tied=tied or _is_copied(files)), opt_tensors(f)
    bias = _has_bias(files)
    return mpt_config(m, bias=bias, tied=tied), mpt_tensors(f, bias=bias)


def _check_degree(model: FtModel, files: FtFiles) -> None:
    """CheckpointError if the model cannot be cut into as many parts, or `config.ini` knows of more."""
    said = model.section.integer("tensor_para_size", "tensor_parallelism", default=files.degree)
    if said != files.degree:
        raise CheckpointError(
            f"{files.folder} holds {files.degree} parts; {CONFIG} says {said}", hint="copy the files of the other ranks"
        )
    for what, size in (
        ("heads", model.heads),
        ("key and value heads", model.kv_heads),
        ("dims of the MLP", model.inner),
    ):
        if size % files.degree:
            raise CheckpointError(f"{files.folder} holds {files.degree} parts, which do not divide {size} {what}")


def _is_copied(files: FtFiles) -> bool:
    """Whether the head may be a copy of the embedding: they begin alike. Lifting compares the whole."""
    table, head = (files.start(key, _START) for key in ("wte", _HEAD))
    return table == head


def _has_bias(files: FtFiles) -> bool:
    """Whether biases are more than the zeros that FasterTransformer wants where a model has none, which are dropped."""
    biases = files.keys(".bias")
    if not all(files.all_zero(key) for key in biases):
        return True
    files.drop(lambda key: key in biases)
    return False


def _notes(model: FtModel, *, exact_gelu: bool) -> list[str]:
    notes = []
    if exact_gelu:
        notes.append("GELU is computed exactly, as in transformers; FasterTransformer approximated it by tanh")
    if model.family == "mpt" and not {"layernorm_eps", "layer_norm_epsilon"} & model.section.values.keys():
        notes.append(f"{CONFIG} does not say 'layernorm_eps': 1e-6 is taken, as FasterTransformer does")
    if model.family in ("gpt_neox", "gptj") and not {"max_pos_seq_len", "n_positions"} & model.section.values.keys():
        notes.append(f"{CONFIG} does not say how long sequences may be: {model.context} tokens are assumed (--max-seq)")
    return notes


def _is_exact(config: Mapping[str, Any]) -> bool:
    """Whether GELU is computed exactly, which FasterTransformer never did."""
    function = config.get("ffn_config", {}).get("ffn_act_fn", {"approximate": "tanh"})
    return config.get("hidden_act") == "gelu" or function["approximate"] == "none"


def _prompt_notes(prompts: Sequence[str]) -> list[str]:
    """What to do with the virtual tokens of tasks, which are no part of the model."""
    if not prompts:
        return []
    more = f" and {len(prompts) - 1} more" if len(prompts) > 1 else ""
    return [f"model.{prompts[0]}.*bin{more}: virtual tokens of a task, which --prompts TASK=FILE adds to an engine"]
