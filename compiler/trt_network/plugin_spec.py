"""What layers of llmc's plug-ins have in common, as data: what TensorRT and the records of networks ask of them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, ClassVar, NamedTuple, Self

FLOATS = ("FLOAT", "HALF", "BF16")


class Result(NamedTuple):
    """The shape of what a layer makes: that of an input, but perhaps for the last dim.

    Attributes:
        like: the number of the input.
        last: the last dim; None if it is the input's.
        in_place: whether the result is that input, written to in place.
    """

    like: int = 0
    last: int | None = None
    in_place: bool = False


class PluginSpec(ABC):
    """What a layer computes; kinds of layers are frozen dataclasses, whose fields are the attributes.

    Attributes:
        plugin: the plug-in, as `NAMESPACE::NAME`, by which network records call its layers.
        version: the plug-in's version: of another meaning of its attributes or inputs there is another one.
    """

    plugin: ClassVar[str]
    version: ClassVar[str]

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """What the layer reads, in order."""

    @property
    @abstractmethod
    def results(self) -> tuple[Result, ...]:
        """What the layer makes, in order."""

    @abstractmethod
    def types(self, first: str) -> tuple[str, ...]:
        """The element types of inputs and results, by TensorRT's names, where that of the first input is `first`."""

    @property
    def in_place(self) -> tuple[tuple[int, int], ...]:
        """The numbers of the results that are inputs, written to in place, and of these inputs."""
        return tuple((number, result.like) for number, result in enumerate(self.results) if result.in_place)

    @property
    def params(self) -> dict[str, Any]:
        """The properties of the layer in a network record: the attributes, and the plug-in's version."""
        in_place = {"in_place": self.in_place} if self.in_place else {}
        return {"version": self.version, **in_place, **self._attributes}

    @property
    def text(self) -> str:
        """The attributes as JSON: what the plug-in serializes into a plan."""
        return json.dumps(self._attributes, sort_keys=True)

    @property
    def _attributes(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Self:
        """What `params` gave, perhaps before there were all of these attributes; TypeError for something else."""
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        return cls(**{name: _frozen(params[name]) for name in names if name in params})

    @classmethod
    def read(cls, text: str) -> Self:
        """What `text` gave; ValueError or TypeError if it is of something else."""
        return cls(**{name: _frozen(value) for name, value in json.loads(text).items()})


def _frozen(value: Any) -> Any:
    """A value of JSON with tuples for its lists."""
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value
