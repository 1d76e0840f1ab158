"""All cases."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.ir.dims import Shape
from compiler.ir.dtypes import DType
from tests.backend_trt.cases.attention import attention, caches, rotary
from tests.backend_trt.cases.case_builder import INPUT, LITERAL, WEIGHT, Case, Make, Row, dims
from tests.backend_trt.cases.elementwise import elementwise
from tests.backend_trt.cases.products import lookups, norms, products
from tests.backend_trt.cases.shape import moving_elements, slicing_and_joining

ENDS: tuple[Shape, ...] = ((), (6,), (2, 3), (0, 3), (1, 2, 1, 2, 1, 2, 1, 2), (1, 2, 1, 2, 1, 2, 1, 2, 2))
FAMILIES = (elementwise, moving_elements, slicing_and_joining, lookups, products, norms, attention, caches, rotary)


def every_case() -> Iterator[Case]:
    """Each case of each family, for each element type; the rules of the IR forbid some of them."""
    for family in (*FAMILIES, _ends):
        for kind, label, make in family():
            for dtype in DType:
                yield Case(kind, dtype, label, make)


def _ends() -> Iterator[Row]:
    """Outputs that no op makes."""
    for shape in ENDS:
        for how in (INPUT, LITERAL, WEIGHT):
            yield "output", f"{how} {dims(shape)}", _end(shape, how)


def _end(shape: Shape, how: str) -> Make:
    return lambda d: d.x(*shape, how=how)
