"""SentencePiece models as tokenizers of the `tokenizers` library: what is stored, and not what a class makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILES = ("tokenizer.model", "spiece.model", "spm.model", "sentencepiece.model", "sentencepiece.bpe.model")
"""The names that checkpoints give to such a model."""

_UNIGRAM, _BPE = 1, 2  # of TrainerSpec.ModelType
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # of SentencePiece.Type
_SPACE = "▁"


def missing_packages() -> tuple[str, ...]:
    """Which of the packages that reading such a model takes are not installed."""
    packages = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}
    return tuple(name for name, module in packages.items() if not _is_installed(module))


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it is missing
        return False


def convert(path: Path) -> Tokenizer:
    """The model in a file as a tokenizer that puts nothing around a text.

    Raises:
        ValueError: if the file holds no such model, or one of a kind that has no counterpart.
    """
    import tokenizers
    from tokenizers import decoders, normalizers

    proto = _read(path)
    trained, normal = proto.trainer_spec, proto.normalizer_spec
    if trained.treat_whitespace_as_suffix:
        raise ValueError("spaces belong to the word before them")
    tokenizer = tokenizers.Tokenizer(_model(proto))
    steps: list[Any] = [normalizers.Precompiled(normal.precompiled_charsmap)] if normal.precompiled_charsmap else []
    if normal.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    if normal.add_dummy_prefix:
        steps.append(normalizers.Prepend(" "))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            *([decoders.ByteFallback()] if trained.byte_fallback else []),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if normal.add_dummy_prefix else []),
        ]
    )
    for piece in proto.pieces:
        if piece.type in (_UNKNOWN, _CONTROL, _USER_DEFINED):
            special = piece.type != _USER_DEFINED
            tokenizer.add_tokens([tokenizers.AddedToken(piece.piece, special=special, normalized=False)])
    return tokenizer


def own_ids(path: Path, texts: Sequence[str]) -> list[list[int]]:
    """What the library sentencepiece itself makes of texts: the ids of each."""
    processor = import_module("sentencepiece").SentencePieceProcessor(model_file=str(path))
    return [list(map(int, ids)) for ids in processor.encode(list(texts))]


def _read(path: Path) -> Any:
    proto = import_module("sentencepiece.sentencepiece_model_pb2").ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:  # noqa: BLE001 - protobuf's error has had several homes
        raise ValueError(f"it is no SentencePiece model ({error})") from None
    if not proto.pieces:
        raise ValueError("it is no SentencePiece model")
    return proto


def _model(proto: Any) -> Any:
    from tokenizers import models

    trained = proto.trainer_spec
    if trained.model_type == _UNIGRAM:
        pieces = [(piece.piece, piece.score) for piece in proto.pieces]
        return models.Unigram(pieces, trained.unk_id, byte_fallback=trained.byte_fallback)
    if trained.model_type != _BPE:
        raise ValueError("it is a SentencePiece model of words or characters")
    ids = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    return models.BPE(
        ids, _merges(proto, ids), unk_token=trained.unk_piece, fuse_unk=True, byte_fallback=trained.byte_fallback
    )


def _merges(proto: Any, ids: dict[str, int]) -> list[tuple[str, str]]:
    """Each way to join two pieces into a third, those of the best pieces first, as sentencepiece does."""
    return [
        pair
        for piece in sorted(proto.pieces, key=lambda piece: -float(piece.score))
        for pair in _halves(piece.piece, ids)
    ]


def _halves(text: str, ids: dict[str, int]) -> list[tuple[str, str]]:
    pairs = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
    return sorted((pair for pair in pairs if pair[0] in ids and pair[1] in ids), key=lambda pair: ids[pair[0]])
