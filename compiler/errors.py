"""Errors that a user can act on.

Every error that llmc raises on purpose is an `LlmcError`: one message that names the file, config key, tensor or op,
and a hint that says how to mend it. The command line prints both and exits with status 2; anything else that
escapes is a bug and shows a traceback.
"""

import errno


class LlmcError(Exception):
    """What is wrong, and the mend.

    Args:
        message: what is wrong, naming the file, key, tensor or op.
        hint: what the user can do about it.
        excerpt: lines of IR that show where, already formatted.
    """

    def __init__(self, message: str, *, hint: str | None = None, excerpt: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.excerpt = excerpt

    def __str__(self) -> str:
        parts = [self.message]
        if self.excerpt:
            parts.append(self.excerpt)
        if self.hint:
            parts.append(f"hint: {self.hint}")
        return "\n".join(parts)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, of torch, of Python or of the system, says that there is not enough memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


# What torch says of a CPU's memory, and of sizes that no memory could have.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "Storage size calculation overflowed")


class CheckpointError(LlmcError):
    """A checkpoint's files or tensors are missing, damaged or not what its config says."""


class WeightsGoneError(CheckpointError):
    """A graph's weights are not where it says, or cannot be read there."""


class ConfigError(LlmcError):
    """A checkpoint's config holds a key or value that is unknown, inconsistent or not supported."""


class GraphError(LlmcError):
    """A graph or one of its ops breaks a rule of the IR."""


class ParseError(GraphError):
    """A text is not an IR graph."""


class PassError(LlmcError):
    """A pass or a pipeline of passes is unknown, misspelt or cannot be applied."""


class PluginError(LlmcError):
    """Code that is not llmc's own (a pass, an op's rule, a frontend) cannot be loaded, or fails."""


class TargetError(LlmcError):
    """A target cannot be built or used on this machine."""


class ExportError(LlmcError):
    """A graph, or a part of it, cannot be said in the format of a checkpoint."""


class EngineError(LlmcError):
    """An engine directory is incomplete, damaged, foreign or from another version."""


class RequestError(LlmcError):
    """A prompt or a generation option that this engine cannot serve."""
