"""The code of docs/passes.md, or of another page, as one file, which is a plug-in."""

from __future__ import annotations

import re
from pathlib import Path

from tests.paths import DOCS

GUIDE = DOCS / "passes.md"
COOKBOOK = DOCS / "cookbook.md"


def guide_code(page: Path = GUIDE) -> str:
    """All pieces of Python, in order, on the lines that they have in the page."""
    text = page.read_text()
    code = ""
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        code += "\n" * (text[: block.start(1)].count("\n") - code.count("\n")) + block[1]
    return code
