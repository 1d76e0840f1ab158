"""The modules that models are made of: their weights taken, their ops appended."""

from __future__ import annotations

from compiler.errors import GraphError
from compiler.frontends.activations import Activation
from compiler.frontends.attention import Attention
from compiler.frontends.step import StepBuilder
from compiler.ir.dtypes import DType
from compiler.ir.op import Value


def linear(step: StepBuilder, x: Value, module: str, out: int, width: int, *, name: str, bias: bool) -> Value:
    """A linear layer `width → out` whose weights are `module.weight` and, if it has one, `module.bias`."""
    weight = step.weights.take(f"{module}.weight", out, width, name=f"{name}.weight")
    bias = bias or step.weights.adds_bias(module)
    offset = step.weights.take(f"{module}.bias", out, name=f"{name}.bias") if bias else None
    return step.b.linear(step.weights.input(module, x), weight, offset, name=name)


def layer_norm(
    step: StepBuilder,
    x: Value,
    module: str,
    width: int,
    *,
    scope: str,
    eps: float,
    weight: bool = True,
    bias: bool = True,
) -> Value:
    """A LayerNorm over the last dim, in a scope of its own; GraphError if that dim is not `width`."""
    if x.type.shape[-1:] != (width,):
        raise GraphError(f"{module} normalizes rows of {width}; %{x.name} is {x.type}")
    with step.b.scope(scope, module):
        scale = step.weights.take(f"{module}.weight", width, name="weight") if weight else None
        offset = step.weights.take(f"{module}.bias", width, name="bias") if bias else None
        return step.b.layer_norm(x, scale, offset, eps=eps, name="norm")


def rms_norm(step: StepBuilder, x: Value, module: str, width: int, *, scope: str, eps: float) -> Value:
    """An RMSNorm over the last dim, in a scope of its own."""
    with step.b.scope(scope, module):
        scale = step.weights.take(f"{module}.weight", width, name="weight")
        return step.b.rms_norm(x, scale, eps=eps, name="norm")


def mlp(
    step: StepBuilder,
    x: Value,
    module: str,
    up: str,
    down: str,
    hidden: int,
    inner: int,
    act: Activation,
    *,
    bias: bool,
) -> Value:
    """`down(act(up(x)))`, in the scope `mlp`; `up` and `down` are the layers' names within `module`."""
    with step.b.scope("mlp", module):
        y = linear(step, x, f"{module}.{up}", inner, hidden, name="up", bias=bias)
        y = step.weights.divided(f"{module}.act", act(step.b, y), inner)
        return linear(step, y, f"{module}.{down}", hidden, inner, name="down", bias=bias)


def projected_attention(
    step: StepBuilder, x: Value, module: str, layer: int, attention: Attention, *, bias: bool
) -> Value:
    """Attention with four projections `hidden → hidden` of their own, in the scope `attn`."""
    hidden = step.shape.hidden
    with step.b.scope("attn", module):
        q, k, v = (linear(step, x, f"{module}.{name}_proj", hidden, hidden, name=name, bias=bias) for name in "qkv")
        y = attention.cached(step, layer, q, k, v)
        return linear(step, y, f"{module}.out_proj", hidden, hidden, name="out", bias=bias)


def embed(step: StepBuilder, module: str, width: int, *, tied_to: tuple[str, ...] = ()) -> tuple[Value, Value]:
    """The rows of the token embedding `[B,S,width]`, and the table, for heads that are tied to it.

    The table of a tied head may be stored as that of the head alone: `tied_to` is what checkpoints call its module.
    """
    with step.b.scope("embed", module):
        others = tuple([f"{head}.weight" for head in tied_to])
        table = step.weights.take(f"{module}.weight", step.shape.vocab, width, name="weight", aliases=others)
        return step.b.embedding(table, step.token_ids, name="tokens"), table


def output_head(
    step: StepBuilder, x: Value, table: Value, width: int, *modules: str, tied: bool
) -> tuple[Value, Value]:
    """What the head multiplies: its input, and its weight `[vocabulary, width]`.

    Args:
        step: the step.
        x: what the last layer gives.
        table: the embedding's table, which is the weight of a head that is tied to it.
        width: the size of the input.
        modules: what checkpoints call the head's module.
        tied: whether the head is tied to the embedding.
    """
    if tied:
        return x, table
    usual, *others = (f"{module}.weight" for module in modules)
    weight = step.weights.take(usual, step.shape.vocab, width, name="weight", aliases=tuple(others))
    return step.weights.input(modules[0], x), weight


def learned_positions(step: StepBuilder, module: str, count: int, width: int, *, unused: int = 0) -> Value:
    """The rows of a learned position embedding `[B,S,width]`, whose table starts with `unused` rows.

    Raises:
        GraphError: if the model's shape says that another number of positions is learned.
    """
    b = step.b
    if step.shape.learned != count:
        raise GraphError(
            f"{module} has learned {count} positions, and ModelShape.learned is {step.shape.learned}",
            hint="they must be the same: that decides how long a sequence may be",
        )
    with b.scope("positions", module):
        table = step.weights.take(f"{module}.weight", unused + count, width, name="table" if unused else "weight")
        if unused:
            table = b.slice(table, axis=0, start=unused, size=count, name="weight")
        # Padding may reach beyond the table; what it looks up does not matter, but it must be there.
        last = b.literal(dtype=DType.i32, shape=(1,), values=(count - 1,), name="last")
        inside = b.where(b.less_equal(step.positions, last, name="known"), step.positions, last, name="inside")
        return b.embedding(table, inside, name="embedding")
