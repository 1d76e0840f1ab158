"""FasterTransformer directories: `config.ini` and raw files `model.*.bin`, in any number of tensor-parallel parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compiler.errors import CheckpointError
from compiler.frontends.checkpoint import Checkpoint, StoredWeights
from compiler.frontends.layouts.ft_config import FtModel, gptj_config, mpt_config, neox_config, opt_config, read_model
from compiler.frontends.layouts.ft_files import CONFIG, FtFiles, ft_folder, holds_ft
from compiler.frontends.layouts.ft_tensors import Tensors, gptj_tensors, mpt_tensors, neox_tensors, opt_tensors
from compiler.frontends.layouts.registry import layout
from compiler.frontends.layouts.tokenizer_file import find_tokenizer

_START = 1 << 20  # bytes that tell a head from the embedding


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
    config, tensors = _lifted(model, files)
    files.finish()
    return Checkpoint(
        path,
        config,
        lambda: StoredWeights(files.used, tensors),
        config_files=[(place / CONFIG).relative_to(path).as_posix()],
        tokenizer_file=find_tokenizer(path, [place]),
        notes=_notes(model),
    )


def _lifted(model: FtModel, files: FtFiles) -> tuple[dict[str, Any], Tensors]:
    """The config and the tensors that transformers has."""
    match model.family:
        case "gpt_neox":
            return {**neox_config(model), "tie_word_embeddings": not files.has("lm_head.weight")}, neox_tensors(
                model, files
            )
        case "gptj":
            return gptj_config(model), gptj_tensors(model, files)
        case "opt":
            final = files.has("final_layernorm.weight")
            return opt_config(model, final_norm=final, tied=_is_tied(files)), opt_tensors(model, files)
    bias = _has_bias(files)
    config = mpt_config(model, bias=bias, tied=not files.has("lm_head.weight"))
    return config, mpt_tensors(model, files, bias=bias)


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


def _is_tied(files: FtFiles) -> bool:
    """Whether the head may be the embedding: both are stored, and begin alike. Lifting compares the whole."""
    if not files.has("lm_head.weight"):
        return True
    table, head = (files.start(key, _START) for key in ("wte", "lm_head.weight"))
    return table == head


def _has_bias(files: FtFiles) -> bool:
    """Whether biases are more than the zeros that FasterTransformer wants where a model has none, which are dropped."""
    biases = files.keys(".bias")
    if not all(files.all_zero(key) for key in biases):
        return True
    files.drop(lambda key: key in biases)
    return False


def _notes(model: FtModel) -> list[str]:
    notes = []
    if model.family == "gpt_neox":
        notes.append("GELU is computed exactly, as in transformers; FasterTransformer approximated it by tanh")
    if model.family in ("gpt_neox", "gptj") and not {"max_pos_seq_len", "n_positions"} & model.section.values.keys():
        notes.append(f"{CONFIG} does not say how long sequences may be: {model.context} tokens are assumed (--max-seq)")
    return notes
