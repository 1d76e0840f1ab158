"""The code of docs/passes.md as one file, which is a plug-in."""

from __future__ import annotations

import re

from tests.paths import DOCS

GUIDE = DOCS / "passes.md"


def guide_code() -> str:
    """All pieces of Python, in order, on the lines that they have in the guide."""
    text = GUIDE.read_text()
    code = ""
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        code += "\n" * (text[: block.start(1)].count("\n") - code.count("\n")) + block[1]
    return code
