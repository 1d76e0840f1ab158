"""The guide's code runs."""

import re
from pathlib import Path

from compiler.passes import describe_passes
from tests.registrations import forgotten

GUIDE = Path(__file__).parents[2] / "docs" / "passes.md"


def test_the_guides_code_runs() -> None:
    text = GUIDE.read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) > 5
    scope = {"__name__": "guide"}
    with forgotten():
        for block in blocks:
            # Blank lines in front, so that a traceback has the line of the guide.
            lines = "\n" * text[: block.start(1)].count("\n")
            exec(compile(lines + block[1], str(GUIDE), "exec", dont_inherit=True), scope)
        assert {"drop-repeated-relu", "soft-cap", "skip-scales"} <= {info.name for info in describe_passes()}


def test_the_guide_lists_option_types_that_exist() -> None:
    assert all(f"`{name}`" in GUIDE.read_text() for name in ("int", "float", "bool", "str", "Path", "Enum", "Literal"))
