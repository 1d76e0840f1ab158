"""Pictures of a large model: how long they take to make, and pages to open, for the five graphs of a 20B pipeline.

Run it with `python -m benchmarks.view`. Pages are opened where Chromium is installed.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llmc
from compiler.ir.drawing.page import page
from compiler.ir.drawing.page_data import Shown
from compiler.ir.drawing.svg import svg
from tests.browser import CHROMIUM, Browser

CONFIG = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "hidden_size": 6144,
    "num_hidden_layers": 44,
    "num_attention_heads": 64,
    "intermediate_size": 24576,
    "vocab_size": 50432,
    "max_position_embeddings": 2048,
    "rotary_pct": 0.25,
    "torch_dtype": "float16",
}
PIPELINE = "quant=int4,merge-linears,fuse-attention,cleanup"
ALL_OPEN = "for (const group of MODELS[0].groups.keys()) state.open.add(group); render()"


def timed(what: str, run: Callable[[], Any]) -> Any:
    """The result; prints how long it took."""
    start = time.perf_counter()
    result = run()
    print(f"{what:52} {time.perf_counter() - start:7.2f} s")
    return result


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        llmc.dry_run(folder, passes=PIPELINE, dummy_weights=True, dump_ir=folder / "dumps")
        files = sorted((folder / "dumps").glob("*.ir"))
        shown = timed(f"read {len(files)} dumps", lambda: [Shown(file.stem, llmc.read_graph(file)) for file in files])
        print(f"  of {', '.join(str(len(each.graph.ops)) for each in shown)} ops")
        written = timed("make the page", lambda: page(shown, title="20B"))
        print(f"  of {len(written) / 1e6:.1f} MB")
        timed("make a picture, one layer open", lambda: svg(shown[-1].graph))
        timed("make a picture, everything open", lambda: svg(shown[-1].graph, opened=["all"]))
        if CHROMIUM is None:
            print("without Chromium pages are not opened")
            return
        (folder / "page.html").write_text(written, encoding="utf-8")
        with Browser() as browser:
            timed("open the page", lambda: browser.open(folder / "page.html"))
            timed("find a value, and open what it is in", lambda: browser.run("act.select('layers.20.attn.out', true)"))
            timed("show the next dump beside it", lambda: browser.run("act.set({index: 1, compare: true})"))
            timed("show the treemap", lambda: browser.run("act.set({tab: 'treemap'})"))
            browser.run("act.set({index: 0, tab: 'graph'})")
            timed("open everything", lambda: browser.run(ALL_OPEN))


if __name__ == "__main__":
    main()
