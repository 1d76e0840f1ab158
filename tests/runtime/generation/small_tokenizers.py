"""Small tokenizers of the common kinds, built with the `tokenizers` library from random or given vocabularies."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from runtime.generation.tokenizer import Tokenizer

Made = tokenizers.Tokenizer

_SYLLABLES = ("a", "b", "ab", "ba", "é", "日", "本", "🙂", ".", "'s", "n't", "A")
SPECIAL = ("<s>", "</s>", "<unk>")


def _merged(draw: random.Random, pieces: list[str], count: int) -> tuple[list[str], list[tuple[str, str]]]:
    """The pieces with `count` random merges of them, and the merges."""
    pieces, merges = list(pieces), []
    for _ in range(count):
        pair = (draw.choice(pieces), draw.choice(pieces))
        if "".join(pair) not in pieces:
            merges.append(pair)
            pieces.append("".join(pair))
    return pieces, merges


def byte_level_bpe(draw: random.Random) -> Made:
    """Every byte is a token, and random merges cut characters anywhere."""
    pieces, merges = _merged(draw, sorted(pre_tokenizers.ByteLevel.alphabet()), 60)
    made = Made(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=draw.random() < 0.5)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(SPECIAL))
    return made


def metaspace_unigram(draw: random.Random) -> Made:
    """Pieces with and without the mark of a space in front; what is in none is unknown."""
    pieces = ["▁", *_SYLLABLES, *{"▁" + "".join(draw.choices(_SYLLABLES, k=draw.randint(1, 3))) for _ in range(20)}]
    made = Made(models.Unigram([("<unk>", 0.0), *((piece, -draw.uniform(1, 9)) for piece in pieces)], unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=draw.choice(["always", "first", "never"]))
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(list(SPECIAL))
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A $B", special_tokens=[("</s>", made.token_to_id("</s>"))]
    )
    return made


def metaspace_bpe(draw: random.Random) -> Made:
    """As Llama's: bytes stand for what is in no piece, and a text's first space is the tokenizer's own."""
    pieces, merges = _merged(draw, ["▁", *"abé.A'snt"], 20)
    vocabulary = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    model = models.BPE(
        {piece: i for i, piece in enumerate(vocabulary)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    made = Made(model)
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(list(SPECIAL))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="$A $B", special_tokens=[("<s>", 0)])
    return made


def word_piece(draw: random.Random) -> Made:
    """Words and their continuations; case and spaces may be lost."""
    words = [*_SYLLABLES, *("##" + syllable for syllable in _SYLLABLES), "do", "not", "'", "t", "!", ","]
    made = Made(models.WordPiece({word: i for i, word in enumerate(["<unk>", *words])}, unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer(lowercase=draw.random() < 0.5)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(cleanup=draw.random() < 0.5)
    made.add_special_tokens(list(SPECIAL))
    return made


KINDS: dict[str, Callable[[random.Random], Made]] = {
    "byte-level BPE": byte_level_bpe,
    "Metaspace Unigram": metaspace_unigram,
    "Metaspace BPE": metaspace_bpe,
    "WordPiece": word_piece,
}


def words(*names: str, special: tuple[str, ...] = ()) -> Made:
    """A Metaspace tokenizer whose ids are those of the names, in order; its special tokens come behind them."""
    made = Made(models.Unigram([("<unk>", 0.0), *((name, -1.0) for name in names)], unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(list(special))
    return made


def loaded(made: Made, folder: Path) -> Tokenizer:
    """The tokenizer as the runtime reads it."""
    made.save(str(folder / "tokenizer.json"))
    return Tokenizer(folder / "tokenizer.json")
