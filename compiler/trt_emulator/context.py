"""What stands for `IExecutionContext`: shapes, addresses, and the run itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compiler.trt_emulator.layers import RankExchange
from compiler.trt_emulator.memory import tensor_at
from compiler.trt_emulator.plan import Observer, evaluate, infer_shapes

if TYPE_CHECKING:
    from compiler.trt_emulator.engine import EmulatedEngine

Shape = tuple[int, ...]


class EmulatedContext:
    """The state of one execution: a profile, the shapes and addresses of tensors, and a communicator.

    Calls that TensorRT refuses return False here too, and say why in the engine's log. Runs end before
    `execute_async_v3` returns, and streams are ignored.

    Attributes:
        engine: what it was made from.
        observe: called after every layer except constants with the layer and the tensors it made; the tensors are
            valid during the call only.
    """

    def __init__(self, engine: EmulatedEngine) -> None:
        self.engine = engine
        self.observe: Observer | None = None
        self._profile = 0
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._bound: dict[str, tuple[int, Tensor]] = {}
        self._communicator: RankExchange | None = None
        self._inferred: dict[tuple[Shape, ...], dict[str, Shape]] = {}
        self._reset_shapes()

    @property
    def active_optimization_profile(self) -> int:
        """The profile that shapes are checked against."""
        return self._profile

    @property
    def all_binding_shapes_specified(self) -> bool:
        """Whether every input has its shape."""
        return not self.infer_shapes()

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Choose a profile, which forgets the shapes of the dynamic inputs; False if there is none of that index."""
        count = self.engine.num_optimization_profiles
        if not 0 <= profile_index < count:
            return self._refuse(
                f"setOptimizationProfileAsync: profile index {profile_index} is not in [0, {count - 1}]"
            )
        self._profile = profile_index
        self._reset_shapes()
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        """Set the shape of an input; False if it does not fit the network or the profile."""
        if self.engine.get_tensor_mode(name).name != "INPUT":
            return self._refuse(f"setInputShape: {name} is not an input of the engine")
        dims, declared = tuple(int(dim) for dim in shape), self.engine.get_tensor_shape(name)
        if self._shapes.get(name) == dims:
            return True
        if len(dims) != len(declared) or any(d not in (-1, dim) for d, dim in zip(declared, dims, strict=True)):
            return self._refuse(
                f"setInputShape: static dimension mismatch for {name}: set dimensions are {list(dims)}, expected "
                f"dimensions are {list(declared)}"
            )
        least, _, most = self.engine.get_tensor_profile_shape(name, self._profile)
        if self.engine.record.profiles and not all(a <= d <= b for a, d, b in zip(least, dims, most, strict=True)):
            return self._refuse(
                f"setInputShape: set dimensions {list(dims)} for tensor {name} do not satisfy optimization profile "
                f"{self._profile}: the valid range is {list(least)}..{list(most)}"
            )
        self._shapes[name] = dims
        return True

    def infer_shapes(self) -> list[str]:
        """The inputs that still need a shape."""
        return [name for name in self.engine.record.inputs if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> Shape:
        """The shape of an input or output; -1 for dims that depend on shapes not set yet.

        Raises:
            TargetError: if there is no such tensor, or the shapes of the inputs do not fit each other.
        """
        declared = self._shapes.get(name, self.engine.get_tensor_shape(name))
        if -1 not in declared or self.infer_shapes():
            return declared
        return self._outputs()[name]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Set where an input is read, or an output written; False if there is no such tensor."""
        if self.engine.get_tensor_mode(name).name == "NONE":
            return self._refuse(f"setTensorAddress: {name} is not an input or output of the engine")
        self._addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        """The address of an input or output, 0 if it is not set."""
        return self._addresses.get(self.engine.tensor(name).name, 0)

    def set_communicator(self, communicator: RankExchange) -> bool:
        """Set what the collectives are called on."""
        self._communicator = communicator
        self._inferred.clear()
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Run the network; False if a shape or address is missing, or an aliased output lies apart from its input.

        Raises:
            TargetError: if a layer is given what it cannot work on, such as an index out of range.
        """
        if reason := self._obstacle():
            return self._refuse(f"enqueueV3: {reason}")
        record = self.engine.record
        values = dict(self.engine.constants)
        values.update({name: self._memory(name, self._shapes[name]) for name in record.inputs})
        with torch.inference_mode():
            evaluate(self.engine.plan, values, self._communicator, self.observe)
            for name in record.outputs:
                if name not in record.aliases:
                    self._memory(name, values[name].shape).copy_(values[name])
        return True

    def _memory(self, name: str, shape: Shape) -> Tensor:
        """The tensor at the address of an input or output; the same one as long as address and shape stay."""
        address, tensor = self._bound.get(name, (0, None))
        if tensor is None or address != self._addresses[name] or tensor.shape != shape:
            address = self._addresses[name]
            tensor = tensor_at(address, self.engine.record.tensors[name].dtype, shape)
            self._bound[name] = address, tensor
        return tensor

    def _obstacle(self) -> str | None:
        """What keeps the network from running, if anything does."""
        record = self.engine.record
        if missing := self.infer_shapes():
            return f"the shapes of these inputs are not set: {', '.join(missing)}"
        if missing := [name for name in (*record.inputs, *record.outputs) if not self._addresses.get(name)]:
            return f"the addresses of these tensors are not set: {', '.join(missing)}"
        for output, source in record.aliases.items():
            if self._addresses[output] != self._addresses[source]:
                return f"output {output} must have the address of input {source}, which it shares memory with"
        return None

    def _outputs(self) -> dict[str, Shape]:
        key = tuple(self._shapes[name] for name in self.engine.record.inputs)
        if key not in self._inferred:
            with torch.inference_mode():
                self._inferred[key] = infer_shapes(
                    self.engine.plan, self.engine.constants, self._shapes, self._communicator
                )
        return self._inferred[key]

    def _reset_shapes(self) -> None:
        declared = {name: self.engine.get_tensor_shape(name) for name in self.engine.record.inputs}
        self._shapes = {name: shape for name, shape in declared.items() if -1 not in shape}

    def _refuse(self, message: str) -> bool:
        self.engine.log(f"IExecutionContext::{message}")
        return False
