"""Reading `config.json` so that no key goes unnoticed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any, overload

from compiler.errors import ConfigError
from compiler.json_fields import D, Fields, T, shown


class Size(int):
    """A size that remembers which config keys it comes from, for messages about shapes."""

    origin: str

    def __new__(cls, value: int, origin: str) -> Size:
        size = super().__new__(cls, value)
        size.origin = origin
        return size


class Config(Fields):
    """The keys of a config, each of which must be taken, or be known not to matter.

    A key whose value is null counts as absent. A key may be spelled in several ways (`aliases`); the first is the one
    that messages use.
    """

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        super().__init__(values, label="the config key", path=path, error=ConfigError)
        self.taken: set[str] = set()
        self.parts: list[Config] = []

    @overload
    def take(self, key: str, kind: type[T], *, aliases: Iterable[str] = ()) -> T: ...
    @overload
    def take(self, key: str, kind: type[T], *, aliases: Iterable[str] = (), default: D) -> T | D: ...
    def take(self, key: str, kind: Any, *, aliases: Iterable[str] = (), **default: Any) -> Any:
        """See `Fields.take`; the key and its aliases are known from then on. Errors are `ConfigError`s."""
        self.taken |= {key, *aliases}
        return super().take(key, kind, aliases=aliases, **default)

    @overload
    def size(self, key: str, *, aliases: Iterable[str] = ()) -> Size: ...
    @overload
    def size(self, key: str, *, aliases: Iterable[str] = (), default: D) -> Size | D: ...
    def size(self, key: str, *, aliases: Iterable[str] = (), **default: Any) -> Any:
        """A positive integer; ConfigError for anything else."""
        value = self.take(key, int, aliases=aliases, **default)
        if not isinstance(value, int) or isinstance(value, bool):
            return value
        if value < 1:
            raise ConfigError(f"{self._label} {self.name(key)} is {value}; it must be at least 1")
        return value if isinstance(value, Size) else Size(value, self.path + key)

    def choice(self, key: str, options: Mapping[str, D], *, default: str, aliases: Iterable[str] = ()) -> D:
        """What `options` holds under the value of `key`; ConfigError, listing the options, if nothing."""
        value = self.take(key, str, aliases=aliases, default=default)
        if value not in options:
            raise self.unsupported(key, value, options)
        return options[value]

    def only(self, key: str, *supported: Any) -> None:
        """Take a key that matters but of which only some values are implemented; the first is the default.

        Raises:
            ConfigError: for another value.
        """
        self.taken.add(key)
        value = self.values.get(key)
        if value is not None and value not in supported:
            raise self.unsupported(key, value, supported)

    def section(self, key: str) -> Config:
        """The object under `key` as a config of its own, empty if it is absent; ConfigError if it is no object."""
        section = Config(self.take(key, dict, default={}), f"{self.path}{key}.")
        self.parts.append(section)
        return section

    def ignore(self, *keys: str) -> None:
        """Keys that cannot change what the model computes."""
        self.taken.update(keys)

    def unknown(self, inert: Container[str] = ()) -> list[str]:
        """The keys, here and in sections, that nothing took and that are not in `inert`."""
        own = [
            self.path + key
            for key, value in self.values.items()
            if value is not None and key not in self.taken and key not in inert
        ]
        return own + [key for section in self.parts for key in section.unknown(inert)]

    def unsupported(self, key: str, value: Any, supported: Iterable[Any]) -> ConfigError:
        """The error for a value that llmc does not implement."""
        listed = ", ".join(map(shown, supported))
        return ConfigError(
            f"{self._label} {self.name(key)} is {shown(value)}, which is not supported; supported: {listed}"
        )


_INERT = """
_attn_implementation _attn_implementation_autoset _commit_hash _name_or_path architectures attn_implementation
auto_map custom_pipelines finetuning_task gradient_checkpointing id2label initializer_range label2id model_type
name num_labels output_attentions output_hidden_states output_scores prefix problem_type return_dict
return_dict_in_generate task_specific_params tf_legacy_loss tokenizer_class tokenizer_name torchscript
transformers_version use_bfloat16 use_cache verbose _experts_implementation

bos_token_id cls_token_id decoder_start_token_id eos_token_id forced_bos_token_id forced_eos_token_id mask_token_id
pad_token_id sep_token_id unk_token_id

bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
exponential_decay_length_penalty length_penalty max_length max_new_tokens min_length no_repeat_ngram_size
num_beam_groups num_beams num_return_sequences remove_invalid_values repetition_penalty suppress_tokens temperature
top_k top_p typical_p

add_cross_attention chunk_size_feed_forward cross_attention_hidden_size is_decoder is_encoder_decoder
tie_encoder_decoder
"""

INERT_KEYS = frozenset(_INERT.split())
"""Keys that cannot change a step's logits, whatever the family: metadata, training, generation."""
