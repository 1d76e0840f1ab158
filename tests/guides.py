"""Running the code of guides."""

import re
from pathlib import Path
from typing import Any


def run_guide(guide: Path) -> dict[str, Any]:
    """Run all Python of a guide, from top to bottom, as one program; its names at the end."""
    text = guide.read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) > 1
    scope: dict[str, Any] = {"__name__": "guide"}
    for block in blocks:
        # Blank lines in front, so that a traceback has the line of the guide.
        lines = "\n" * text[: block.start(1)].count("\n")
        exec(compile(lines + block[1], str(guide), "exec", dont_inherit=True), scope)
    return scope
