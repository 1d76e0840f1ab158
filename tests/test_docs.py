"""The code in the guides runs, from top to bottom; links lead somewhere, and every room of the source is described."""

import dataclasses
import re

import pytest

from runtime.generation.sampling_params import SamplingParams
from tests.paths import DOCS, ROOT
from tests.registrations import forgotten

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


GUIDES = ["checkpoints.md", "ir.md", "view.md", "frontends.md", "targets.md", "generation.md", "../CONTRIBUTING.md"]


@pytest.mark.parametrize("guide", GUIDES)
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
    readme = (ROOT / "README.md").read_text()
    assert [guide.name for guide in DOCS.glob("*.md") if f"docs/{guide.name}" not in readme] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_pages_and_headings(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (anchor and anchor not in _anchors(linked)):
            broken.append(target)
    assert broken == []


def _anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("room", ["llmc", "runtime", "compiler"])
def test_the_architecture_names_every_room_and_module(room):
    page = (DOCS / "architecture.md").read_text()
    section = page[page.index(f"**`{room}/`**") :].partition("\n**`")[0]
    rooms = [path.stem for path in (ROOT / room).iterdir() if path.is_dir() and (path / "__init__.py").exists()]
    assert rooms
    assert [name for name in rooms if f"`{name}`" not in section] == []


def test_the_page_on_generation_lists_every_parameter_with_its_default():
    page = (DOCS / "generation.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", page, re.MULTILINE))
    spelt = {field.name: str(_spelt(field.default)) for field in dataclasses.fields(SamplingParams)}
    assert rows == spelt


def _spelt(default):
    """A default as the page writes it."""
    if default is None or default == () or default == {}:
        return "none"
    return {True: "yes", False: "no"}[default] if isinstance(default, bool) else f"{default:g}"


def test_terms_of_the_glossary_are_introduced_once():
    terms = re.findall(r"^\*\*(.+?)\*\*", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    assert len(terms) == len(set(terms)) > 40
