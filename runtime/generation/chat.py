"""Chats: the prompt that a model's chat template makes of messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from compiler.errors import EngineError, RequestError
from compiler.json_fields import Fields, shown
from compiler.text_files import read_text

if TYPE_CHECKING:
    import jinja2

TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
"""The files that may hold a chat template: the first wins over `tokenizer_config.json`, which wins over the second."""

_SETTINGS = ("special_tokens_map.json", "tokenizer_config.json")
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FORM = 'write [{"role": "user", "content": "Hello"}]'
_AGAIN = "compile the engine again, or copy it again from where it came"


def apply_chat_template(
    folder: str | Path, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
) -> str:
    """The prompt that a chat template makes of a conversation, as `apply_chat_template` of transformers does.

    The prompt has the special tokens in it that the template writes, such as a start token: encode it with
    `add_special_tokens=False`.

    Args:
        folder: an engine, or a checkpoint.
        messages: what was said, in order: for each message its `role` (`system`, `user`, `assistant`, or another that
            the template knows) and its `content`, and whatever else the template reads.
        add_generation_prompt: whether the prompt ends with what begins an answer of the model.

    Raises:
        EngineError: if a file of the folder is damaged.
        RequestError: if the folder has no chat template, if the messages are none, or if the template is wrong or
            refuses them.
    """
    place = Path(folder).expanduser()
    given = _plain(messages)
    settings = {name: _object(place / name) for name in _SETTINGS}
    template = _compiled(*_template(place, settings["tokenizer_config.json"]))
    try:
        return template.render(
            messages=given,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **_special_tokens(settings),
        )
    except Exception as error:  # noqa: BLE001 - a template is a program, which may fail in any way
        raise RequestError(
            f"the chat template of {place} does not take these messages: {str(error) or type(error).__name__}",
            hint="give them in the form that the model's documentation describes",
        ) from None


def chat_template_text(folder: str | Path) -> str | None:
    """The chat template of an engine or a checkpoint; None if it has none. EngineError if a file is damaged."""
    place = Path(folder).expanduser()
    found = _find_template(place, _object(place / _SETTINGS[1]))
    return found[1] if found is not None else None


def special_token(folder: str | Path, name: str) -> str | None:
    """The text of a special token such as `bos_token`, as the files beside the tokenizer say; None if they do not.

    Raises:
        EngineError: if a file is damaged.
    """
    place = Path(folder).expanduser()
    return _special_tokens({file: _object(place / file) for file in _SETTINGS}).get(name)


def _plain(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages in the types of JSON, without keys whose value is null: a template gets no other objects."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise RequestError(f"the messages of a chat are {shown(messages)}; they must be a list", hint=_FORM)
    if not messages:
        raise RequestError("the chat has no messages", hint=_FORM)
    plain = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            raise RequestError(f"message {number} is {shown(message)}; it must be an object", hint=_FORM)
        if not isinstance(message.get("role"), str):
            raise RequestError(f"message {number} has no role that is a text", hint=_FORM)
        try:
            values = json.loads(json.dumps(dict(message)))
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"message {number} cannot be written as JSON: {error}", hint=_FORM) from None
        plain.append({key: value for key, value in values.items() if value is not None})
    return plain


def _template(folder: Path, settings: Mapping[str, Any]) -> tuple[str, str]:
    """The name of the file that holds the template, and the template."""
    found = _find_template(folder, settings)
    if found is None:
        raise RequestError(
            f"{folder} has no chat template: its model was not made for chats, or its checkpoint lacked the file",
            hint="give a prompt as text; or put chat_template.jinja beside the checkpoint's tokenizer.json, and "
            "compile again",
        )
    return found


def _find_template(folder: Path, settings: Mapping[str, Any]) -> tuple[str, str] | None:
    template, legacy = (folder / name for name in TEMPLATE_FILES)
    if template.is_file():
        return template.name, read_text(template, EngineError, what="the chat template in").text
    stored = settings.get("chat_template")
    if isinstance(stored, list):  # several templates by name
        stored = {each.get("name"): each.get("template") for each in stored if isinstance(each, dict)}
    if isinstance(stored, dict):
        stored = stored.get("default")
    if isinstance(stored, str):
        return "tokenizer_config.json", stored
    if legacy.is_file():
        return legacy.name, Fields(_object(legacy), label=f"{legacy}: the key", error=EngineError).string(
            "chat_template"
        )
    return None


def _special_tokens(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The special tokens that templates name; those of `tokenizer_config.json` win."""
    tokens = {}
    for file in _SETTINGS:
        for name in _SPECIAL:
            stored = settings[file].get(name)
            text = stored.get("content") if isinstance(stored, dict) else stored
            if isinstance(text, str):
                tokens[name] = text
    return tokens


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(read_text(path, EngineError).text)
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{path} is no JSON: {error}", hint=_AGAIN) from None
    if not isinstance(content, dict):
        raise EngineError(f"{path} holds {shown(content)}, not an object with keys", hint=_AGAIN)
    return content


@lru_cache(maxsize=16)
def _compiled(file: str, template: str) -> jinja2.Template:
    import jinja2
    from jinja2 import nodes, parser
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class AnswerMarks(Extension):
        """`{% generation %}` around an answer, which tells training what to learn; a prompt is the same without."""

        tags = {"generation"}  # noqa: RUF012 - as the base class declares it

        def parse(self, parser: parser.Parser) -> nodes.Node:
            """What is between the tags, whose variables are its own."""
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[AnswerMarks, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise RequestError(
            f"the chat template in {file} is wrong at line {error.lineno}: {error.message}",
            hint="correct it in the checkpoint, and compile again",
        ) from None


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is: Jinja's own filter writes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    """What a template calls if it cannot take the messages."""
    import jinja2

    raise jinja2.TemplateError(message)
