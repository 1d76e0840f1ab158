"""A page to explore graphs in a browser: one HTML file that needs nothing else, and no network."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from compiler.ir.drawing.page_data import Shown, page_data
from compiler.ir.drawing.svg import xml_text

_SCRIPTS = ("model.js", "draw.js", "panel.js", "charts.js", "page.js")
_VENDOR = "vendor"


def page(
    shown: Sequence[Shown],
    *,
    title: str,
    compare: bool = False,
    opened: Collection[str] = (),
    errors: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page as HTML.

    Args:
        shown: the graphs in order, each made from the one before: the dumps of a pipeline, or two to compare.
        title: what the page is called.
        compare: whether the first two are shown side by side at first.
        opened: the groups that are open at first; `all` for every one.
        errors: of each quantized op the entry of `OpError.to_json`; empty without quantization.
    """
    parts = {
        "TITLE": xml_text(title),
        "STYLE": _asset("page.css"),
        "LIBRARIES": _libraries(),
        "DATA": _embedded({**page_data(shown, title=title, compare=compare, errors=errors), "open": list(opened)}),
        "SCRIPT": "\n".join(map(_asset, _SCRIPTS)),
    }
    before, *pieces = _asset("page.html").split("{{")
    filled = [before]
    for piece in pieces:
        name, _, rest = piece.partition("}}")
        filled += [parts[name], rest]
    return "".join(filled)


def _embedded(data: Any) -> str:
    """JSON that may stand in a `script` element, which the first `</script` would end."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


@cache
def _libraries() -> str:
    """The scripts of the libraries with their licences, which go wherever they go."""
    scripts = []
    for library in json.loads(_asset(f"{_VENDOR}/manifest.json")):
        licence = _asset(f"{_VENDOR}/{library['license_file']}")
        code = _asset(f"{_VENDOR}/{library['file']}")
        # A browser's tools would look for the map on the network.
        kept = "\n".join(line for line in code.splitlines() if not line.startswith("//# sourceMappingURL="))
        scripts.append(f"<script>\n/*! {library['package']} {library['version']}\n\n{licence}*/\n{kept}\n</script>")
    return "\n".join(scripts)


@cache
def _asset(name: str) -> str:
    return files("compiler.ir.drawing").joinpath("assets", name).read_text(encoding="utf-8")
