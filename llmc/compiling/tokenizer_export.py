"""The checkpoint's tokenizer, brought into the one form that the runtime reads."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.frontends.file_kinds import is_lfs_pointer
from compiler.frontends.gguf_file import is_gguf
from llmc.compiling import gguf_tokenizer, sentencepiece_model, stored_tokenizer
from runtime.engine_dir.manifest import NoTokenizer
from runtime.generation.chat import TEMPLATE_FILES

if TYPE_CHECKING:
    import tokenizers

_READ = "tokenizer.json"
_VOCABULARIES = ("vocab.json", "vocab.txt")
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
_COPIED = (*_SETTINGS, *TEMPLATE_FILES)  # for chats, and for other programs
# Spaces, special tokens, digits, accents, other scripts, line ends: where conversions go wrong.
_PROBES = (
    "Hello world",
    "  two  spaces\n\tand 12345 ",
    "naïve café, 日本語 🙂",
    "</s><|endoftext|> a<s>b",
    "it's I'm\r\n",
)
_SAVE_AS_JSON = "put tokenizer.json (transformers' save_pretrained writes one) beside the weights, and compile again"

_AGAIN = "download or copy the file again, and compile again"


def write_tokenizer(source: Path, folder: Path, note: Callable[[str], None] = lambda text: None) -> str | NoTokenizer:
    """Write the tokenizer of a checkpoint into `folder`, as the tokenizers library reads it.

    Args:
        source: the checkpoint's folder, a file of the tokenizers library that is taken as it is, or a GGUF file.
        folder: the engine directory under construction.
        note: called with a sentence where the tokenizer is not what transformers would make of it.

    Returns:
        The name of the file that the runtime reads, or why there is none.

    Raises:
        OSError: if the folder cannot be written.
    """
    try:
        tokenizer = _of_file(source, note) if source.is_file() else _read(source, note)
    except _UnreadableError as error:
        return error.why
    tokenizer.no_truncation()  # files often keep the settings of some training script
    tokenizer.no_padding()
    # Not its method `save`, which reports a full disk as a bare Exception.
    (folder / _READ).write_text(tokenizer.to_str(), encoding="utf-8")
    if is_gguf(source):
        for name, text in gguf_tokenizer.settings(source).items():
            (folder / name).write_text(text, encoding="utf-8")
        return _READ
    beside = source.parent if source.is_file() else source
    for name in _COPIED:
        if (beside / name).is_file():
            shutil.copyfile(beside / name, folder / name)
    return _READ


def _of_file(source: Path, note: Callable[[str], None]) -> tokenizers.Tokenizer:
    """What a file holds; of a GGUF file that holds none that can be read, what lies beside it."""
    if not is_gguf(source):
        return _plain(source)
    try:
        return gguf_tokenizer.read_tokenizer(source, note)
    except ValueError as error:
        if not _files(source.parent):
            raise _UnreadableError(f"{source.name} cannot be asked: {error}", _SAVE_AS_JSON) from None
        note(f"the tokenizer is that of {source.parent}: of {source.name}, {error}")
        return _read(source.parent, note)


def has_tokenizer(source: Path) -> bool:
    """Whether a path is the file of a tokenizer, or a folder that holds files of one."""
    return source.is_file() or bool(_files(source))


def _files(source: Path) -> list[str]:
    """The files from which a tokenizer may be read; transformers makes one up where there is none."""
    names = (_READ, *sentencepiece_model.FILES, *_VOCABULARIES)
    return [name for name in names if (source / name).is_file()]


class _UnreadableError(Exception):
    """There is no tokenizer that can be written."""

    def __init__(self, reason: str, mend: str) -> None:
        super().__init__(reason)
        self.why = NoTokenizer(reason, mend)


def _read(source: Path, note: Callable[[str], None]) -> tokenizers.Tokenizer:
    files = _files(source)
    if not files:
        raise _UnreadableError("its checkpoint had none", _SAVE_AS_JSON)
    for name in (*files, "merges.txt", "added_tokens.json", *_COPIED):
        if is_lfs_pointer(source / name):
            raise _UnreadableError(
                f"{name} is a Git LFS pointer, not the file itself", "fetch it (git lfs pull), and compile again"
            )
    if files[0] not in (_READ, *sentencepiece_model.FILES) and "auto_map" in _settings(source):
        raise _UnreadableError("it is Python code of the checkpoint's, which llmc does not run", _SAVE_AS_JSON)
    if files[0] in sentencepiece_model.FILES:
        return _from_sentencepiece(source, files[0], note)
    if files[0] == "vocab.json" and not (source / "merges.txt").is_file():
        raise _UnreadableError(
            "vocab.json says what the tokens are, but merges.txt, which says how texts become tokens, is missing",
            f"fetch merges.txt too, or {_SAVE_AS_JSON}",
        )
    return stored_tokenizer.read_stored(source) or _from_transformers(source, files[0], note)


def _from_transformers(source: Path, file: str, note: Callable[[str], None]) -> tokenizers.Tokenizer:
    """What transformers makes of the files, if the runtime can do the same with it."""
    original = _load(source, file)
    converted: tokenizers.Tokenizer = original.backend_tokenizer
    name = type(original).__name__
    if file != _READ and not _has_tokens_of(converted, source / file):
        raise _UnreadableError(f"{name} of transformers makes one up that has not the tokens of {file}", _SAVE_AS_JSON)
    if file == _READ:
        plain = _plain(source / file)
        if type(plain.model) is not type(converted.model):
            note(f"{name} of transformers makes something else of {source.name}'s {file}, which is taken as it is")
            return plain
        if any(plain.encode(text).ids != converted.encode(text).ids for text in _PROBES):
            note(f"{name} of transformers reads some texts otherwise than {source.name}'s {file}; so does the engine")
    if not _is_same(original, converted):
        raise _UnreadableError(f"{file} cannot be converted exactly", _SAVE_AS_JSON)
    return converted


def _load(source: Path, file: str) -> Any:
    settings = _settings(source)
    try:
        with _quiet():
            from transformers import AutoTokenizer

            original = AutoTokenizer.from_pretrained(str(source), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 - transformers raises anything at all
        _check_json(source)
        text = str(error).strip().partition("\n")[0].rstrip(" :") or type(error).__name__
        name = settings.get("tokenizer_class", "AutoTokenizer")
        raise _UnreadableError(f"{name} of transformers cannot load {file} ({text})", _SAVE_AS_JSON) from None
    if not getattr(original, "is_fast", False):
        raise _UnreadableError(f"{type(original).__name__} of transformers is Python code", _SAVE_AS_JSON)
    return original


def _check_json(source: Path) -> None:
    for name in (_READ, "vocab.json", "added_tokens.json", *_SETTINGS):
        try:
            json.loads((source / name).read_text("utf-8"))
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise _UnreadableError(f"{name} is no JSON: {error}", _AGAIN) from None


def _settings(source: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((source / "tokenizer_config.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}  # transformers says what is wrong with it


def _has_tokens_of(tokenizer: tokenizers.Tokenizer, file: Path) -> bool:
    """Whether a tokenizer has all tokens of a vocabulary, with their ids."""
    text = file.read_text("utf-8")
    stored = (
        json.loads(text)
        if file.suffix == ".json"
        else {t: i for i, t in enumerate(text.removesuffix("\n").split("\n"))}
    )
    found = tokenizer.get_vocab()
    return all(found.get(token) == number for token, number in stored.items())


def _plain(file: Path) -> tokenizers.Tokenizer:
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001 - the library raises bare Exceptions
        raise _UnreadableError(
            f"tokenizers {tokenizers.__version__} cannot read {file.name} ({error})", _AGAIN
        ) from None


def _from_sentencepiece(source: Path, file: str, note: Callable[[str], None]) -> tokenizers.Tokenizer:
    """The SentencePiece model itself; transformers says only what its class puts around a text.

    A class that is code of the checkpoint's cannot be asked that.
    """
    if missing := sentencepiece_model.missing_packages():
        raise _UnreadableError(
            f"its checkpoint has a SentencePiece model, {file}, and reading one takes {' and '.join(missing)}, "
            f"which {'was' if len(missing) == 1 else 'were'} not installed",
            'pip install "llmc[sentencepiece]", and compile again',
        )
    try:
        tokenizer = sentencepiece_model.convert(source / file)
    except ValueError as error:
        raise _UnreadableError(f"{file} cannot be converted: {error}", _SAVE_AS_JSON) from None
    texts = [text for text in _PROBES if "<" not in text]  # special tokens are plain text to sentencepiece
    if [tokenizer.encode(text).ids for text in texts] != sentencepiece_model.own_ids(source / file, texts):
        raise _UnreadableError(f"{file} cannot be converted exactly", _SAVE_AS_JSON)
    _add_declared(tokenizer, source)
    if "auto_map" in _settings(source):
        note(
            "the tokenizer's class is Python code of the checkpoint's, which llmc does not run: the engine's is "
            f"{file} itself, which puts no tokens around a text"
        )
    else:
        _put_around(tokenizer, _load(source, file))
    return tokenizer


def _add_declared(tokenizer: tokenizers.Tokenizer, source: Path) -> None:
    """Add the tokens that other files of the checkpoint give ids to."""
    import tokenizers

    declared = {int(number): token for number, token in _settings(source).get("added_tokens_decoder", {}).items()}
    if not declared and (source / "added_tokens.json").is_file():
        added = json.loads((source / "added_tokens.json").read_text("utf-8"))
        declared = {number: {"content": text} for text, number in added.items()}
    for number, token in sorted(declared.items()):
        tokenizer.add_tokens([tokenizers.AddedToken(**{k: v for k, v in token.items() if k != "__type"})])
        if tokenizer.token_to_id(token["content"]) != number:
            raise _UnreadableError(f"the added token {token['content']!r} has another id in its model", _SAVE_AS_JSON)


def _put_around(tokenizer: tokenizers.Tokenizer, original: Any) -> None:
    """Put the same tokens around every text as a tokenizer of transformers."""
    from tokenizers import processors

    # A token that was added is one token, whatever else the class knows.
    text = next(iter(original.added_tokens_encoder), "a")
    encoded = original(text, return_special_tokens_mask=True)
    tokens, around = original.convert_ids_to_tokens(encoded["input_ids"]), encoded["special_tokens_mask"]
    inner = around.index(0) if 0 in around else 0
    before, after = tokens[:inner], [token for token, put in zip(tokens[inner:], around[inner:], strict=True) if put]
    ids = {token: tokenizer.token_to_id(token) for token in (*before, *after)}
    if strangers := [token for token, number in ids.items() if number is None]:
        raise _UnreadableError(
            f"{type(original).__name__} of transformers puts {strangers[0]!r} around texts, which is not in its model",
            _SAVE_AS_JSON,
        )
    if ids:
        single = [*before, "$A", *after]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=[*single, "$B:1"], special_tokens=list(ids.items())
        )


def _is_same(original: Any, converted: tokenizers.Tokenizer) -> bool:
    for text in _PROBES:
        ids = original(text)["input_ids"]
        if converted.encode(text).ids != ids:
            return False
        if original.decode(ids, skip_special_tokens=True) != converted.decode(ids, skip_special_tokens=True):
            return False
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' advice, which is not about anything that the user did."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
