"""What layouts say of quantized weights that they bring into the form of `compiler.frontends.quantized.of_layouts`."""

from __future__ import annotations

from typing import Any

OF_LAYOUTS = "of-layouts"
"""The `quant_method` of the form."""


def quantized_form(inputs: str | None = None, cache: str | None = None) -> dict[str, Any]:
    """The `quantization_config` of the form.

    Args:
        inputs: how inputs of linears are rounded: `static`, `token` or None.
        cache: the type of caches: `int8`, `fp8` or None.
    """
    return {"quant_method": OF_LAYOUTS, "inputs": inputs, "kv_cache": cache}
