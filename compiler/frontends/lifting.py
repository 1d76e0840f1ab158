"""What a frontend works with, and how its work becomes a graph."""

from __future__ import annotations

from compiler.errors import CheckpointError, ConfigError
from compiler.frontends.checkpoint import Checkpoint
from compiler.frontends.config import INERT_KEYS, Config
from compiler.frontends.limits import Limits
from compiler.frontends.quantized import PackedScheme, quantized_scheme
from compiler.frontends.step import ModelShape, StepBuilder
from compiler.frontends.weights import Weights
from compiler.ir.builder import Builder
from compiler.ir.dtypes import COMPUTE_DTYPES, DType
from compiler.ir.graph import Graph
from compiler.ir.op import Value
from compiler.ir.step import LOGITS


class Lifting:
    """One checkpoint on its way to a graph.

    A frontend takes the config's keys, calls `begin` once, appends the model's ops and calls `finish` with the logits.
    """

    def __init__(self, family: str, checkpoint: Checkpoint, limits: Limits) -> None:
        self.family = family
        self.checkpoint = checkpoint
        self.config = Config(checkpoint.config)
        self.config.ignore("quantization_config", "compression_config")
        self.limits = limits
        self.unknown_keys: list[str] = []
        self.b = Builder(family)

    def begin(self, shape: ModelShape) -> StepBuilder:
        """Declare the step's inputs. Call it when every key of the config has been taken: the others are noted.

        Raises:
            ConfigError: if the limits do not fit the model, or its element type is not supported.
        """
        b = self.b
        scheme = self._scheme()
        dtype = self._dtype()
        self.unknown_keys = self.config.unknown(INERT_KEYS)
        self.checkpoint.notes += [f"the config key {key!r} is not known and was ignored" for key in self.unknown_keys]
        b.dims.update(self.limits.dims(shape.context, shape.learned))
        b.facts.update(
            family=self.family,
            vocab_size=int(shape.vocab),
            context_length=int(shape.context),
            layers=int(shape.layers),
            hidden_size=int(shape.hidden),
            heads=int(shape.heads),
            kv_heads=int(shape.kv_heads),
            head_dim=int(shape.head_dim),
            positions=shape.positions,
        )
        return StepBuilder(b, Weights(b, self.checkpoint, dtype, scheme), shape)

    def finish(self, step: StepBuilder, logits: Value) -> None:
        """Declare the logits.

        Raises:
            CheckpointError: if a tensor of the checkpoint has found no place.
        """
        step.weights.finish()
        self.b.outputs = {LOGITS: logits, **self.b.outputs}
        self.b.facts.update(parameters=step.weights.parameters, dtype=step.dtype.value)

    def graph(self) -> Graph:
        """The lifted graph."""
        return self.b.build(str(self.checkpoint.folder))

    def explained(self, error: CheckpointError) -> CheckpointError:
        """The error of weights that do not fit the config, with the keys that were ignored: they may be the reason."""
        if not self.unknown_keys:
            return error
        keys = ", ".join(map(repr, self.unknown_keys))
        ignored = f"these keys of {self.checkpoint.config_name} are not known and were ignored: {keys}"
        return CheckpointError(error.message, hint=f"{error.hint}; {ignored}" if error.hint else ignored)

    def _scheme(self) -> PackedScheme | None:
        """How the checkpoint is quantized; weights that are made up are not."""
        scheme = quantized_scheme(self.checkpoint)
        if scheme is not None and self.checkpoint.dummy_weights:
            self.checkpoint.notes.append("the checkpoint is quantized; dummy weights are not")
            return None
        return scheme

    def _dtype(self) -> DType:
        """The element type that the config names; else the one in which most of the weights are stored."""
        name = self.config.take("dtype", str, aliases=("torch_dtype",), default=None)
        stored = self._stored_dtype()
        if name is None:
            return stored or DType.f16
        try:
            named = COMPUTE_DTYPES[name.removeprefix("torch.")]
        except KeyError:
            raise self.config.unsupported("dtype", name, COMPUTE_DTYPES) from None
        said = "config.json" in self.checkpoint.config_files  # a layout without it has decided by itself
        if said and stored is DType.f32 and named is not DType.f32:
            self.checkpoint.notes.append(
                f"the weights are stored in float32; {self.checkpoint.config_name} says {name!r}, to which they are "
                "rounded (the pass dtype=float32 keeps them)"
            )
        return named

    def _stored_dtype(self) -> DType | None:
        """The element type in which most of the weights are stored; None if none of them is one to compute in."""
        elements = dict.fromkeys(COMPUTE_DTYPES.values(), 0)
        for tensor in self.checkpoint.tensors.values():
            if tensor.dtype in elements:
                elements[tensor.dtype] += tensor.elements
        return max(elements, key=lambda dtype: elements[dtype]) if any(elements.values()) else None


def divide(config: Config, key: str, whole: int, by: str, parts: int) -> int:
    """`whole / parts`; ConfigError, naming both keys, if there is a remainder."""
    if whole % parts:
        raise ConfigError(f"the config key {key!r} is {whole}, which {by!r} = {parts} does not divide")
    return whole // parts
