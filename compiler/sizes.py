"""Sizes in words."""


def bytes_text(count: float) -> str:
    """`13.5 GB`; powers of ten, as disks and file managers count."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def count_text(count: float) -> str:
    """`1.06 M`, `20.6 B`."""
    for unit in ("", " K", " M"):
        if abs(count) < 1000:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:,.3g} B"
