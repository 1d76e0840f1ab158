"""The page in a browser: loaded, searched, clicked, compared, moved through the dumps of a pipeline."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import llmc
from compiler.ir.drawing.page import page
from compiler.ir.drawing.page_data import Shown
from tests.browser import CHROMIUM, Browser
from tests.paths import ROOT

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]

# A folder for pictures of what was seen, to look at.
SHOTS = os.environ.get("LLMC_SCREENSHOTS")

ERRORS = [
    {"op": f"layers.{layer}.attn.{part}", "module": "m", "recipe": "int4, 4 bits", "error": 0.01 * (layer + 1)}
    for layer in range(4)
    for part in ("q", "out")
]


@pytest.fixture(scope="module")
def browser():
    with Browser() as running:
        yield running


@pytest.fixture
def shown(browser: Browser, dumps: Sequence[Shown], tmp_path: Path) -> Browser:
    """The browser, with a page of the dumps of a pipeline."""
    return load(browser, tmp_path, dumps, errors=ERRORS)


def load(browser: Browser, folder: Path, graphs: Sequence[Shown], **options: Any) -> Browser:
    file = folder / "page.html"
    file.write_text(page(graphs, title="dumps", **options), encoding="utf-8")
    browser.open(file)
    assert browser.run("document.documentElement.dataset.ready") == "true"
    return browser


def node(name: str) -> str:
    return f"[data-name={json.dumps(name)}]"


def names(browser: Browser) -> set[str]:
    """The boxes of the last graph that is shown."""
    pane = "[...document.querySelectorAll('.pane')].at(-1)"
    return set(browser.run(f"[...{pane}.querySelectorAll('.node')].map(n => n.dataset.name)"))


def panel(browser: Browser) -> str:
    """The text of the panel."""
    return str(browser.run("document.getElementById('panel').innerText"))


def shoot(browser: Browser, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        browser.screenshot(Path(SHOTS) / f"{name}.png")


@pytest.fixture(autouse=True)
def _no_errors(browser):
    yield
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith("file:")] == []


def test_a_page_opens_with_layers_closed_and_joined(shown):
    assert names(shown) == {
        *("token_ids", "past_len", "new_len", "logit_pos", "output:logits", "logit_rows", "embed.tokens"),
        *("group:positions", "group:layers.0", "group:layers.1..3", "final_norm.norm", "lm_head.logits"),
    }
    assert "like layers.0, 150 ops" in shown.run(f"document.querySelector('{node('group:layers.1..3')}').textContent")
    shoot(shown, "opened")


def test_groups_open_and_close(shown):
    shown.click(f"{node('group:layers.0')} .opener")
    assert {"group:layers.0.attn", "group:layers.0.mlp", "layers.0.after_attn"} <= names(shown)
    shown.click(node("group:layers.0.attn"), times=2)
    assert "layers.0.attn.scores" in names(shown)
    shoot(shown, "layer")
    shown.press("c")
    assert "group:layers.0" in names(shown)


def test_a_search_finds_a_value_and_opens_what_it_is_in(shown):
    shown.press("/")
    shown.type("layers.2.attn.out")
    results = shown.run("[...document.querySelectorAll('[data-result]')].map(r => r.dataset.result)")
    assert results[0] == "layers.2.attn.out"
    assert "layers.2.attn.out.weight" in results
    shoot(shown, "search")
    shown.press("Enter")
    assert "layers.2.attn.out" in names(shown)
    assert shown.run(f"document.querySelector('{node('layers.2.attn.out')}').classList.contains('selected')")
    shoot(shown, "found")


def test_a_click_shows_type_provenance_and_users(shown):
    shown.click(f"{node('group:layers.0')} .opener")
    shown.press("f")
    shown.click(node("layers.0.after_attn"))
    text = panel(shown)
    assert text.startswith("%layers.0.after_attn\n\nadd\n")
    for part in (
        "%layers.0.after_attn f16[B,S,128]",
        "%embed.tokens f16[B,S,128]",
        "%layers.0.after_mlp add",
        "gpt_neox.layers.0",
    ):
        assert part in text
    shown.click("#panel [data-value='layers.0.attn.out']")
    assert "layers.0.attn.out" in names(shown)
    assert "linear" in panel(shown)
    assert "1.00 %" in panel(shown)  # its quantization error
    shown.press("Escape")
    assert panel(shown).startswith("gpt_neox")


def test_weights_and_caches_are_shown_on_request(shown):
    shown.click(f"{node('group:layers.0')} .opener")
    before = names(shown)
    shown.click("#weights")
    assert {"group:embed", "group:final_norm"} <= names(shown) - before
    shown.click("#caches")
    assert "group:caches" in names(shown)


def test_the_slider_goes_through_the_dumps_and_marks_changes(shown, dumps):
    shown.press("ArrowRight")
    shown.press("ArrowRight")
    assert shown.run("document.getElementById('slider-label').textContent") == dumps[2].label == "02-fuse-attention"
    assert shown.run("document.getElementById('summary').textContent") == "17 removed, 4 changed"
    assert "±3" in shown.run(f"document.querySelector('{node('group:layers.1..3')}').textContent")
    shown.run("(() => { const s = byId('slider'); s.value = 3; s.dispatchEvent(new Event('input')); })()")
    assert shown.run("document.querySelector('.pane').dataset.graph") == dumps[3].label


def test_two_graphs_stand_side_by_side(shown):
    shown.run("act.set({index: 2})")
    shown.click("#compare")
    assert shown.run("[...document.querySelectorAll('.pane')].map(p => p.dataset.graph)") == [
        "01-merge-linears",
        "02-fuse-attention",
    ]
    shown.run("act.reveal('layers.0.attn.context')")
    inside = "[...p.querySelectorAll('.node.removed, .node.changed')].map(n => n.dataset.name.split('.').pop())"
    marked = f"[...document.querySelectorAll('.pane')].map(p => {inside})"
    assert shown.run(marked) == [["scores", "scaled", "masked", "probs", "context"], ["context"]]
    shown.run("act.select('layers.0.attn.context')")
    assert "changed: kind, operands, attributes" in panel(shown)
    outlines = shown.run("[...document.querySelectorAll('rect.mark')].map(r => getComputedStyle(r).stroke)")
    assert set(outlines) == {"rgb(198, 47, 47)", "rgb(176, 106, 0)"}
    shoot(shown, "compared")
    shown.click("#changes")
    assert shown.run(f"document.querySelector('{node('embed.tokens')}').classList.contains('dim')")
    shoot(shown, "changes")


def test_a_model_of_44_layers_opens_with_as_few_boxes_as_one_of_four(browser, tmp_path):
    config = json.loads((ROOT / "examples" / "models" / "gptneox-tiny" / "config.json").read_text())
    config |= {"num_hidden_layers": 44, "hidden_size": 6144, "num_attention_heads": 64, "intermediate_size": 24576}
    (tmp_path / "config.json").write_text(json.dumps(config))
    load(browser, tmp_path, [Shown("20b", llmc.lift(tmp_path, dummy_weights=True))])
    assert len(names(browser)) == 12
    browser.run("act.select('layers.20.attn.out', true)")
    assert {"layers.20.attn.out", "group:layers.19", "group:layers.43"} <= names(browser)
    assert "↳ from positions" in browser.run(f"document.querySelector('{node('group:layers.21')}').textContent")
    shoot(browser, "layers")


@pytest.mark.parametrize("family", ["gptj-tiny", "mpt-tiny", "opt-tiny"])
def test_every_op_has_a_box_when_all_is_shown(browser, tmp_path, family):
    lifted = llmc.lift(ROOT / "examples" / "models" / family)
    pipelines = ("quant=int8", "merge-linears,fuse-attention,cache=paged", "tp=2,pp=2,embed=vocab")
    shown = [Shown(pipeline, llmc.optimize(lifted, pipeline).graph) for pipeline in pipelines]
    load(browser, tmp_path, shown, opened=["all"])
    browser.run("act.set({weights: true, caches: true})")
    for index, graph in enumerate(each.graph for each in shown):
        browser.run(f"act.set({{index: {index}}})")
        outputs = {f"output:{role}" for role in graph.outputs}
        assert names(browser) == {op.name for op in graph.ops} | {value.name for value in graph.inputs} | outputs
    shoot(browser, family)


def test_what_moves_one_graph_moves_the_one_beside_it(browser, dumps, tmp_path):
    load(browser, tmp_path, dumps[:2], compare=True)
    places = "[...document.querySelectorAll('.pane svg > g')].map(g => g.getAttribute('transform'))"
    before = browser.run(places)
    browser.call("Input.dispatchMouseEvent", type="mouseWheel", x=300, y=300, deltaX=0, deltaY=-200)
    after = browser.run(places)
    assert before[0] != after[0] == after[1]


def test_a_page_fits_its_graph_between_its_controls(shown):
    pane = shown.run("(r => [r.top, r.bottom])(document.querySelector('.pane').getBoundingClientRect())")
    graph = shown.run("(r => [r.top, r.bottom])(document.querySelector('.pane svg > g').getBoundingClientRect())")
    assert pane[0] <= graph[0]
    assert graph[1] <= pane[1]


def test_two_graphs_to_compare_are_side_by_side_at_once(browser, dumps, tmp_path):
    load(browser, tmp_path, [dumps[0], dumps[-1]], compare=True, opened=["layers.0"])
    assert browser.run("document.querySelectorAll('.pane').length") == 2
    assert "group:layers.0.attn" in names(browser)


def test_a_treemap_shows_what_ops_cost(shown):
    shown.click("#tab-treemap")
    total = shown.run("document.querySelector('#treemap strong').textContent")
    assert total == "2.11 MB"
    box = "(r => r.width * r.height)(c.querySelector('rect').getBBox())"
    areas = dict(shown.run(f"[...document.querySelectorAll('.cell')].map(c => [c.dataset.name, {box}])"))
    assert areas["embed.tokens"] / areas["layers.0.attn.out"] == pytest.approx(1024 / 128, rel=0.2)
    shoot(shown, "treemap")
    shown.click(".cell" + node("lm_head.logits"))
    assert "%lm_head.logits" in panel(shown)
    shown.run("(() => { const s = byId('metric'); s.value = 'flops'; s.dispatchEvent(new Event('change')); })()")
    assert "MFLOPs" in shown.run("document.querySelector('#treemap strong').textContent")
    assert not shown.run("document.querySelector('.cell" + node("embed.tokens") + "')")
    shoot(shown, "flops")


def test_a_plot_shows_quantization_errors_by_layer(shown):
    shown.click("#tab-errors")
    dots = shown.run("[...document.querySelectorAll('.dot')].map(d => [d.dataset.name, Number(d.getAttribute('cy'))])")
    assert [name for name, _ in dots] == [entry["op"] for entry in ERRORS]
    heights = dict(dots)
    assert heights["layers.3.attn.q"] < heights["layers.0.attn.q"]  # larger errors stand higher
    assert shown.run("document.querySelector('#errors strong').textContent") == "2.50 %"
    shown.click(".dot" + node("layers.1.attn.out"))
    assert "int4, 4 bits" in panel(shown)
    shoot(shown, "errors")


def test_a_page_without_errors_has_no_plot_and_one_graph_no_slider(browser, dumps, tmp_path):
    load(browser, tmp_path, dumps[:1])
    assert browser.run("document.getElementById('tab-errors')") is None
    assert browser.run("getComputedStyle(document.getElementById('slider-row')).display") == "none"


def test_colours_are_by_type_or_by_rank(shown):
    colour = f"document.querySelector('{node('embed.tokens')} .body').getAttribute('fill')"
    by_type = shown.run(colour)
    shown.run("(() => { const s = byId('colour'); s.value = 'rank'; s.dispatchEvent(new Event('change')); })()")
    assert shown.run(colour) != by_type
    assert "rank 3" in shown.run("document.getElementById('legend').textContent")


def test_keys_walk_through_values(shown):
    shown.press("ArrowDown")
    first = shown.run("state.selected")
    shown.press("ArrowDown")
    second = shown.run("state.selected")
    shown.press("ArrowUp")
    assert first != second
    assert shown.run("state.selected") == first
    shown.run("act.select('group:layers.0')")
    shown.press("Enter")
    assert "group:layers.0.attn" in names(shown)


def test_dark_pages_have_dark_grounds(shown):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = shown.run(ground)
    shown.dark(True)
    dark = shown.run(ground)
    shown.click(f"{node('group:layers.0')} .opener")
    shoot(shown, "dark")
    shown.dark(False)
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(20, 23, 28)")
