"""Programs of a single op, run on tensors."""

from collections.abc import Callable, Sequence

from torch import Tensor

from runtime.executors.cpu.library import Library
from runtime.executors.cpu.program import ProgramBuilder, Size

_SIZES = (Size.TOKENS, Size.WANTED, Size.BLOCKS)


def run_op(library: Library, emit: Callable[..., None], operands: Sequence[Tensor], threads: int = 2) -> None:
    """Run an op on matrices.

    Args:
        library: the kernels.
        emit: adds the op to a builder, given the builder and a matrix for each operand.
        operands: the memory, `[rows, columns]`, elements of a row side by side; what the op writes among them.
        threads: how many threads run it.
    """
    builder = ProgramBuilder(library)
    sizes: dict[Size, int] = {}
    memory: dict[str, Tensor] = {}
    numbers, matrices = {1: Size.ONE}, []
    for at, tensor in enumerate(operands):
        rows, columns = tensor.shape
        assert columns == 1 or tensor.stride(1) == 1
        if rows not in numbers:
            numbers[rows] = _SIZES[len(sizes)]
            sizes[numbers[rows]] = rows
        stride = tensor.stride(0) * tensor.itemsize if rows > 1 else 0
        matrices.append(builder.external(f"operand {at}", numbers[rows], columns, tensor.dtype, stride))
        memory[f"operand {at}"] = tensor
    emit(builder, *matrices)
    builder.build().run(sizes, memory, threads)
