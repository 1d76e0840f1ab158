"""SentencePiece models written by hand, so that tests need not have the package: each is one protobuf message."""

from __future__ import annotations

import struct
from collections.abc import Sequence

UNIGRAM, BPE, CHARACTERS = 1, 2, 4
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
SPECIAL = (("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL))
PIECES = ("▁the", "▁list", "▁", "s", "t", "h", "e", "l", "i", "a", "th", "he", "the", "▁t", "st")


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _piece(text: str, score: float, kind: int) -> bytes:
    return _message(1, _message(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _number(3, kind))


def sentencepiece_bytes(
    pieces: Sequence[str] = PIECES,
    *,
    kind: int = UNIGRAM,
    byte_fallback: bool = False,
    dummy_prefix: bool = True,
    remove_extra_whitespaces: bool = True,
) -> bytes:
    """A model with `<unk>`, `<s>` and `</s>` as ids 0, 1 and 2, then the bytes, if it has them, then these pieces."""
    model = b"".join(_piece(text, 0.0, sort) for text, sort in SPECIAL)
    if byte_fallback:
        model += b"".join(_piece(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256))
    model += b"".join(_piece(text, -1.0 - i, NORMAL) for i, text in enumerate(pieces))
    ids = b"".join(_number(40 + i, i) for i in range(3)) + _number(43, 2**64 - 1)  # no padding
    trainer = _number(3, kind) + _number(35, byte_fallback) + ids
    normalizer = _number(3, dummy_prefix) + _number(4, remove_extra_whitespaces) + _number(5, 1)
    return model + _message(2, trainer) + _message(3, normalizer)
