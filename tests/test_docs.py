"""The code in the guides runs, from top to bottom."""

import re

import pytest

from tests.paths import DOCS
from tests.registrations import forgotten


@pytest.mark.parametrize("guide", ["ir.md", "frontends.md", "targets.md", "../CONTRIBUTING.md"])
def test_the_guides_code_runs(guide):
    text = (DOCS / guide).read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) > 1
    scope = {"__name__": "guide"}
    with forgotten():
        for block in blocks:
            # Blank lines in front, so that a traceback has the line of the guide.
            lines = "\n" * text[: block.start(1)].count("\n")
            exec(compile(lines + block[1], guide, "exec", dont_inherit=True), scope)


def test_every_guide_is_linked_from_the_readme():
    readme = (DOCS.parent / "README.md").read_text()
    assert [guide.name for guide in DOCS.glob("*.md") if f"docs/{guide.name}" not in readme] == []
