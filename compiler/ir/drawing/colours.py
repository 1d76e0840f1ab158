"""The colours of element types and of changes, for light backgrounds; boxes keep theirs on dark ones."""

from types import MappingProxyType

DTYPE_COLOURS = MappingProxyType(
    {
        "f64": "#b9c2ff",
        "f32": "#9fcbff",
        "f16": "#a6dfb3",
        "bf16": "#cfe79b",
        "f8e4m3": "#ffe38f",
        "i8": "#ffc98f",
        "u8": "#f7b7c8",
        "i4": "#ff9f8a",
        "i32": "#d7c8f7",
        "i64": "#c3b1ec",
        "bool": "#d4d7dc",
    }
)
"""A colour for each element type."""

MARK_COLOURS = MappingProxyType(
    {"added": "#1a7f37", "removed": "#c62f2f", "changed": "#b06a00", "renamed": "#1f5fd0", "moved": "#7b3fc4"}
)
"""A colour for each way in which an op differs from another graph's."""

MARK_SIGNS = MappingProxyType({"added": "+", "removed": "−", "changed": "±", "renamed": "=", "moved": "~"})
"""The sign of each, for those who do not see colours: as `compiler.ir.diff.format_diff` marks lines."""
