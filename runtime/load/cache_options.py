"""What a user says about the caches of an engine, checked before its weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from compiler.errors import EngineError, RequestError
from runtime.executors.kind import ExecutorKind


@dataclass(frozen=True)
class CacheOptions:
    """How the caches lie, and how large they are.

    Attributes:
        tokens: how many tokens all sequences together may have in paged caches; None for as many as all sequences of
            the engine may have, or there is memory for.
        paged: whether to page the caches of an engine that was compiled with linear ones; implied by `tokens`.

    Raises:
        RequestError: if there would be no token, or the number of tokens is no integer.
    """

    tokens: int | None = None
    paged: bool = False

    def __post_init__(self) -> None:
        if self.tokens is not None and (isinstance(self.tokens, bool) or not isinstance(self.tokens, Integral)):
            raise RequestError(f"cache_tokens is {self.tokens!r:.80}; it must be an integer")
        if self.tokens is not None and self.tokens < 1:
            raise RequestError(
                f"the caches were to hold {self.tokens} tokens; they hold 1 or more",
                hint="raise --cache-tokens (cache_tokens), or leave it out",
            )

    @property
    def wants_pages(self) -> bool:
        """Whether caches must be paged to do what was asked for."""
        return self.paged or self.tokens is not None

    def check(self, kind: ExecutorKind) -> None:
        """EngineError if an executor of this kind cannot do what was asked for."""
        if kind.pages or not self.wants_pages:
            return
        asked = f"--cache-tokens {self.tokens}" if self.tokens is not None else "--paged-cache"
        raise EngineError(
            f"{asked} was given, but {kind.name} runs linear caches, which have a row of max_seq tokens for each of "
            "max_batch sequences",
            hint="leave it out, or use --executor torch, which can page the caches of any engine",
        )
