"""Chat templates make the prompts that transformers makes of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from compiler.errors import EngineError, LlmcError, RequestError
from runtime.generation.chat import apply_chat_template
from tests.runtime.generation import small_tokenizers as small

CHATML = """{% for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}
{% endfor %}
{% if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{% endif %}
"""
INSTRUCT = (
    "{{ bos_token }}{% set ns = namespace(first=true) %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% continue %}{% elif m.role == 'user' %}[INST] {{ m.content }} [/INST]{% elif m.role == 'assistant' %}"
    "{% generation %}{% set mark = '!' %}{{ m.content }}{{ mark }}{% endgeneration %}{{ mark }}{{ eos_token }}"
    "{% else %}{{ raise_exception('no role ' + m.role) }}{% endif %}{% set ns.first = false %}{% endfor %}"
    "{{ ns.first }}"
)
EXTRAS = (
    "{{ messages | tojson(indent=1) }} {{ strftime_now('%Y') }} {{ tools is none }} {{ documents is none }} "
    "{{ pad_token }}|{{ 'reasoning' in messages[0] }}{% break %}"
)
EXTRAS = "{% for m in messages %}" + EXTRAS + "{% endfor %}"

CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be <brief> & kind."},
    {"role": "user", "content": " What is 日本 🙂? ", "reasoning": None},
    {"role": "assistant", "content": 'It\'s "Japan"'},
    {"role": "user", "content": [{"type": "text", "text": "Thanks"}]},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer without a chat template."""
    small.loaded(small.words("▁the", special=("<s>", "</s>")), tmp_path)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": {"__type": "AddedToken", "content": "<s>"},
        "eos_token": "</s>",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def settle(folder: Path, **changes) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def theirs(folder: Path, messages, add_generation_prompt) -> str:
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    made = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    return str(made)


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("template", [CHATML, INSTRUCT, EXTRAS])
def test_prompts_are_those_of_transformers(folder: Path, template: str, asks: bool) -> None:
    messages = CHAT[:3] if template == CHATML else CHAT
    (folder / "chat_template.jinja").write_text(template)
    assert apply_chat_template(folder, messages, asks) == theirs(folder, messages, asks)


def test_a_template_of_its_own_file_wins_over_the_settings(folder: Path) -> None:
    settle(folder, chat_template="settings")
    (folder / "chat_template.json").write_text('{"chat_template": "old file"}')
    assert apply_chat_template(folder, CHAT) == theirs(folder, CHAT, True) == "settings"
    settle(folder, chat_template=[{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}])
    assert apply_chat_template(folder, CHAT) == theirs(folder, CHAT, True) == "D"
    (folder / "chat_template.jinja").write_text("file")
    assert apply_chat_template(folder, CHAT) == theirs(folder, CHAT, True) == "file"


def test_a_template_of_the_older_file_counts_where_there_is_no_other(folder: Path) -> None:
    (folder / "chat_template.json").write_text('{"chat_template": "{{ eos_token }}old file"}')
    assert apply_chat_template(folder, CHAT) == "</s>old file"


def test_a_template_cannot_reach_out_of_its_sandbox(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages.__class__.__mro__ }}{{ messages.append(1) }}")
    with pytest.raises(RequestError, match="does not take these messages"):
        apply_chat_template(folder, CHAT)


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (None, CHAT, "has no chat template"),
        ("{% if %}", CHAT, r"the chat template in chat_template\.jinja is wrong at line 1"),
        ("{{ raise_exception('roles must alternate') }}", CHAT, "these messages: roles must alternate"),
        ("{{ 'a' + messages }}", CHAT, "does not take these messages"),
        ("a", [], "the chat has no messages"),
        ("a", "Hello", "the messages of a chat are 'Hello'; they must be a list"),
        ("a", ["Hello"], "message 1 is 'Hello'; it must be an object"),
        ("a", [CHAT[0], {"content": "a"}], "message 2 has no role"),
        ("a", [{"role": "user", "content": object()}], "message 1 cannot be written as JSON"),
    ],
)
def test_what_is_wrong_is_said_with_the_mend(folder: Path, template: str | None, messages, message: str) -> None:
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(RequestError, match=message) as raised:
        apply_chat_template(folder, messages)
    assert raised.value.hint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", "{", r"tokenizer_config\.json is no JSON"),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json holds \[\], not an object"),
        ("chat_template.json", '{"template": 1}', r"chat_template\.json: the key 'chat_template' is missing"),
        ("chat_template.jinja", b"\xff\xfea", r"chat_template\.jinja is not UTF-8"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, name: str, content: str | bytes, message: str) -> None:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(EngineError, match=message) as raised:
        apply_chat_template(folder, CHAT)
    assert isinstance(raised.value, LlmcError)
