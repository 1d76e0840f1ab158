"""A checkpoint's tensors as they are stored, each used exactly once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from compiler.errors import CheckpointError
from compiler.frontends.checkpoint import Checkpoint
from compiler.frontends.composed import SourceTensor, append_stored
from compiler.frontends.config import Size
from compiler.frontends.leftovers import is_leftover
from compiler.frontends.read_stored import read_stored, same_values
from compiler.ir.builder import Builder
from compiler.ir.dims import shape_text
from compiler.ir.dtypes import DType
from compiler.ir.op import Value
from compiler.suggest import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

# How much two names of tensors must share for one to be a misspelling of the other: those of a model are much alike.
_ALIKE = 0.85

Follows = Callable[["Tensor"], bool]
"""Whether the values of a stored tensor are those that follow from the config."""


class Tensors:
    """The tensors of a checkpoint that becomes a graph.

    Attributes:
        b: what constants are appended with.
        checkpoint: the checkpoint.
        tensors: its tensors, by the names that the model's modules give them.
        taken: the names of the tensors that have found a place.
        ignored: what tensors that need none are called.
    """

    def __init__(self, b: Builder, checkpoint: Checkpoint) -> None:
        self.b = b
        self.checkpoint = checkpoint
        self.tensors: Mapping[str, SourceTensor] = checkpoint.tensors
        self.taken: set[str] = set()
        self.ignored: list[re.Pattern[str]] = []
        self._derived: list[tuple[re.Pattern[str], Follows, str]] = []
        self._contradicted: dict[str, list[str]] = {}

    def base(self, *bases: str, holding: str = "") -> str:
        """What the names of the model's modules begin with: the first of `bases` that fits, else the first of all.

        Programs that wrap a model (for training on several devices, for compilation, for adapters) put a prefix of
        their own before the name of every tensor. One that all names share is left out, with a note.

        Args:
            bases: the beginnings that tools give the names of this family, such as `transformer.` and an empty one.
            holding: what follows in a name of every checkpoint of the family, such as `h.0.`.

        Raises:
            CheckpointError: if some names have such a prefix and others do not.
        """
        names = [name for name in self.tensors if not is_leftover(name)]
        for wrapper in _shared_prefixes(names):
            for base in bases:
                if any(name.startswith(wrapper + base + holding) for name in names):
                    if base:
                        _check_prefix(names, [base + holding], wrapper)
                    self._unwrap(wrapper)
                    return base
        if holding:
            _check_prefix(names, [base + holding for base in bases])
        return bases[0]

    def has(self, tensor: str) -> bool:
        """Whether the checkpoint holds a tensor of that name."""
        return tensor in self.tensors

    def has_module(self, module: str) -> bool:
        """Whether the checkpoint holds any tensor of the module."""
        return any(name.startswith(f"{module}.") for name in self.tensors)

    def ignore(self, *patterns: str) -> None:
        """Tensors that no model needs, beyond those of `compiler.frontends.leftovers`: patterns of whole names."""
        self.ignored += map(re.compile, patterns)

    def derived(self, pattern: str, follows: Follows, source: str) -> None:
        """Say of buffers that the model computes them itself: stored ones that differ from that are noted.

        Args:
            pattern: a regular expression of their whole names.
            follows: whether stored values are those that the model computes.
            source: what it computes them from, such as `'rotary_emb_base' in config.json`.
        """
        self._derived.append((re.compile(pattern), follows, source))

    def raw(self, tensor: str, *shape: int, dtypes: Sequence[DType], name: str) -> Value:
        """A tensor in the element type that it is stored in.

        Args:
            tensor: its name in the checkpoint.
            shape: its shape; sizes that are `Size`s are explained by their config keys in messages.
            dtypes: the element types that it may have.
            name: local name of the value.

        Raises:
            CheckpointError: if it is missing, of another shape or type, or was taken before.
        """
        return self.append(self.claim(tensor, shape, dtypes), name)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a tensor; CheckpointError if it is missing."""
        return self._find(tensor, ()).shape

    def read(self, tensor: str) -> Tensor:
        """The values of a tensor, for what decides how the graph is made.

        Raises:
            CheckpointError: if it is missing, cannot be read, or has an element type that the IR does not know.
        """
        stored = self._find(tensor, ())
        if stored.dtype is None:
            raise CheckpointError(f"the tensor {stored.name!r} in {stored.file} is stored as {stored.spelling}")
        return read_stored(stored, self.checkpoint.folder)

    def same(self, tensor: str, other: str) -> bool:
        """Whether two tensors hold the same numbers."""
        return same_values(self._find(tensor, ()), self._find(other, ()), self.checkpoint.folder)

    def drop(self, tensor: str) -> None:
        """Say of a tensor, if it is there, that it tells nothing new."""
        self.taken.add(tensor)

    def contradicted(self, claim: str, tensor: str) -> None:
        """Say that a tensor, which is used as it is stored, is not what a config says of it: it will be noted.

        Args:
            claim: what the config says, such as `config.json sets 'sym' to True`; noted once for all tensors.
            tensor: the tensor's name.
        """
        self._contradicted.setdefault(claim, []).append(tensor)

    def finish(self) -> None:
        """CheckpointError, naming it, if any tensor was neither taken nor ignored; notes are made of contradictions."""
        left = [name for name in self.tensors if name not in self.taken and not self._is_ignored(name)]
        if left:
            more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
            first, config = self.tensors[left[0]], self.checkpoint.config_name
            raise CheckpointError(
                f"the tensor {first.name!r} in {first.file}{more} has no place in the model that {config} describes",
                hint=f"a key of {config} is wrong, or the model is a variant that is not supported",
            )
        for claim, names in self._contradicted.items():
            self.note(f"{claim}, but {_listed(names)} otherwise: what is stored is used")
        for pattern, follows, source in self._derived:
            known = [name for name, stored in self.tensors.items() if pattern.fullmatch(name) and stored.dtype]
            names = [name for name in known if not follows(self.read(name))]
            if names:
                self.note(f"{_listed(names)} otherwise than {source}, which is followed")

    def note(self, text: str) -> None:
        """Tell the user something, once."""
        if text not in self.checkpoint.notes:
            self.checkpoint.notes.append(text)

    def claim(
        self, tensor: str, shape: Sequence[int], dtypes: Sequence[DType], aliases: tuple[str, ...] = ()
    ) -> SourceTensor:
        """Where the tensor, or one of the aliases, is, which is taken now; CheckpointError as said at `raw`."""
        found = self._spelling(tensor, aliases)
        stored = self._find(tensor, aliases, shape)
        if found in self.taken:
            raise CheckpointError(f"the tensor {stored.name!r} is used twice")
        self.taken.add(found)
        plain = tuple(int(size) for size in shape)
        if stored.shape != plain:
            config = self.checkpoint.config_name
            raise CheckpointError(
                f"the tensor {stored.name!r} in {stored.file} is {shape_text(stored.shape)}, "
                f"but the config makes it {shape_text(plain)}{_reasons(shape)}",
                hint=f"{config} and the weights belong to different models, or a key of {config} is wrong",
            )
        if stored.dtype not in dtypes:
            raise CheckpointError(
                f"the tensor {stored.name!r} in {stored.file} is stored as {stored.spelling}; "
                f"supported are {', '.join(map(str, dtypes))}",
                hint="if the checkpoint is quantized: its config says nothing of it, or something else",
            )
        return stored

    def append(self, stored: SourceTensor, name: str, before: str = "") -> Value:
        """Append a const, then what makes the tensor of it, if it is stored otherwise; the last is `name`."""
        return append_stored(self.b, stored, name, before)

    def _spelling(self, tensor: str, aliases: tuple[str, ...]) -> str:
        return next((name for name in (tensor, *aliases) if name in self.tensors), tensor)

    def _find(self, tensor: str, aliases: tuple[str, ...], shape: Sequence[int] = ()) -> SourceTensor:
        spelling = self._spelling(tensor, aliases)
        if spelling in self.tensors:
            return self.tensors[spelling]
        files = [path.name for path in self.checkpoint.files]
        looked = ", ".join(files) if len(files) <= 3 else f"{files[0]} ... {files[-1]} ({len(files)} files)"
        also = f" (nor {' nor '.join(map(repr, aliases))})" if aliases else ""
        near = did_you_mean(tensor, self._candidates(tensor, shape), alike=_ALIKE)
        raise CheckpointError(f"the tensor {tensor!r}{also} is missing from {looked}{near}")

    def _candidates(self, tensor: str, shape: Sequence[int]) -> Iterator[str]:
        """The names under which a tensor may be stored: of the same kind (no weight is a bias) and shape, unused."""
        kind, plain = tensor.rpartition(".")[2], tuple(int(size) for size in shape)
        for name, stored in self.tensors.items():
            fits = not plain or stored.shape == plain
            if fits and name.rpartition(".")[2] == kind and name not in self.taken:
                yield name

    def _is_ignored(self, name: str) -> bool:
        patterns = (*self.ignored, *(pattern for pattern, *_ in self._derived))
        return is_leftover(name) or any(pattern.fullmatch(name) for pattern in patterns)

    def _unwrap(self, wrapper: str) -> None:
        """Take the names of tensors without a prefix that all of them have."""
        if wrapper:
            self.tensors = {name.removeprefix(wrapper): stored for name, stored in self.tensors.items()}
            self.note(f"the name of every tensor begins with {wrapper!r}, which is left out")


def _shared_prefixes(names: Sequence[str]) -> list[str]:
    """The prefixes that all names have, cut at dots, the shortest, which is empty, first."""
    prefixes, parts = [""], names[0].split(".")[:-1] if names else []
    for part in parts:
        longer = f"{prefixes[-1]}{part}."
        if not all(name.startswith(longer) for name in names):
            break
        prefixes.append(longer)
    return prefixes


def _check_prefix(names: Sequence[str], beginnings: Sequence[str], shared: str = "") -> None:
    """CheckpointError if a name has one of these beginnings behind a prefix, other than `shared`, that not all have."""
    for name in names:
        for beginning in beginnings:
            prefix, found, _ = name.removeprefix(shared).partition(f".{beginning}")
            if found:
                whole = f"{shared}{prefix}."
                other = next(name for name in names if not name.startswith(whole))
                raise CheckpointError(
                    f"the names of some tensors begin with {whole!r}, such as {name!r}, others do not: {other!r}",
                    hint="save the state of the model itself, without what wraps it, or rename its tensors alike",
                )


def _listed(names: Sequence[str]) -> str:
    """`'a' says`, `'a' and 'b' say`, `'a' and 5 more say`."""
    if len(names) == 1:
        return f"the tensor {names[0]!r} says"
    return f"the tensors {names[0]!r} and {repr(names[1]) if len(names) == 2 else f'{len(names) - 1} more'} say"


def _reasons(shape: Sequence[int]) -> str:
    """` (vocab_size = 512, hidden_size = 64)`, as far as sizes know where they come from."""
    known = dict.fromkeys(f"{size.origin} = {size}" for size in shape if isinstance(size, Size))
    return f" ({', '.join(known)})" if known else ""
