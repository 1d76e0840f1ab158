"""`llmc view`: files of every form, and what it refuses."""

import json
from xml.etree import ElementTree

import pytest

from llmc.inspection import png
from tests.browser import CHROMIUM
from tests.cli.llmc_command import llmc
from tests.paths import ROOT

MODEL = ROOT / "examples" / "models" / "gptneox-tiny"
SMALL = "graph g\ninput x: f32[4]\na:\n  %.y: f32[4] = relu(%x)\n  %.w: f32[4] = relu(%.y)\noutput z = %a.w\n"


@pytest.fixture(scope="module")
def dumps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("view") / "dumps"
    assert (
        llmc("opt", MODEL, "--passes", "merge-linears", "--dump-ir", folder, "-o", folder.parent / "out.ir").status == 0
    )
    return folder


@pytest.fixture
def graph(tmp_path):
    file = tmp_path / "small.ir"
    file.write_text(SMALL)
    return file


def data(file):
    return json.loads(file.read_text().partition('id="data">')[2].partition("</script>")[0])


def test_a_checkpoint_becomes_a_page_that_is_named_after_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = llmc("view", MODEL)
    assert (result.status, result.out) == (0, "gptneox-tiny.html\n")
    assert data(tmp_path / "gptneox-tiny.html")["title"] == "gptneox-tiny"


def test_a_folder_of_dumps_becomes_one_page(dumps, tmp_path):
    result = llmc("view", dumps, "-o", tmp_path / "page.html", "--json")
    assert json.loads(result.out) | {"bytes": 0} == {
        "file": str(tmp_path / "page.html"),
        "format": "html",
        "bytes": 0,
        "graphs": ["00-lift", "01-merge-linears"],
    }
    assert len(data(tmp_path / "page.html")["diffs"]) == 1


def test_two_graphs_are_compared(dumps, tmp_path):
    files = dumps / "00-lift.ir", dumps / "01-merge-linears.ir"
    assert llmc("view", *files, "-o", tmp_path / "page.html", "--expand", "layers.0").status == 0
    page = data(tmp_path / "page.html")
    assert (page["compare"], page["open"]) == (True, ["layers.0"])
    assert llmc("view", *files, "-o", tmp_path / "page.svg").status == 0
    shown = "".join(ElementTree.parse(tmp_path / "page.svg").getroot().itertext())
    assert "00-lift.ir" in shown
    assert "01-merge-linears.ir" in shown


def test_an_engine_brings_its_quantization_errors(tmp_path):
    engine = tmp_path / "q.engine"
    assert llmc("compile", MODEL, "-o", engine, "--passes", "quant=int8", "-q").status == 0
    assert llmc("view", engine, "-o", tmp_path / "page.html").status == 0
    errors = data(tmp_path / "page.html")["errors"]
    assert {entry["op"] for entry in errors} >= {"layers.0.attn.out", "layers.3.mlp.down"}
    assert all(0 < entry["error"] < 0.2 for entry in errors)


def test_a_graph_may_come_from_standard_input_and_go_to_standard_output():
    result = llmc("view", "-", "--format", "svg", "-o", "-", stdin=SMALL)
    assert result.status == 0
    ElementTree.fromstring(result.out)


def test_model_explorer_is_chosen_by_the_ending(graph, tmp_path):
    assert llmc("view", graph, "-o", tmp_path / "small.json").status == 0
    assert json.loads((tmp_path / "small.json").read_text())["graphs"][0]["id"] == "small.ir"


def test_a_png_without_a_converter_says_what_to_install(graph, tmp_path, monkeypatch):
    monkeypatch.setattr(png, "import_module", _missing)
    monkeypatch.setattr("shutil.which", lambda name: None)
    llmc("view", graph, "-o", tmp_path / "small.png").failed(
        "nothing on this machine can make a PNG", 'pip install "llmc[png]"'
    )
    assert not (tmp_path / "small.png").exists()


def _missing(name):
    raise ImportError(name)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_a_browser_makes_a_png(graph, tmp_path, monkeypatch):
    monkeypatch.setattr(png, "import_module", _missing)
    assert llmc("view", graph, "-o", tmp_path / "small.png").status == 0
    assert (tmp_path / "small.png").read_bytes().startswith(b"\x89PNG")


def test_a_png_by_the_converter(graph, tmp_path):
    pytest.importorskip("cairosvg", reason='needs the extra "png"', exc_type=ImportError)
    assert llmc("view", graph, "-o", tmp_path / "small.png").status == 0
    assert (tmp_path / "small.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["-o", "x.pdf"], "the name x.pdf does not say what to write", "end in .html, .svg, .png or .json"),
        (["--format", "pdf"], "there is no format 'pdf'", "formats are html, svg, png, model-explorer"),
        (["-o", "x.svg", "--format", "png"], "x.svg cannot be of the format png", "leave out --format"),
        (["--expand", "b"], "there is no group 'b' to open", "groups are scopes of names: a; or all"),
        (["-o", "-", "--json"], "--json needs a file", "-o FILE"),
        (["-o", "nowhere/x.svg"], "cannot write nowhere/x.svg", "give another file"),
    ],
)
def test_what_cannot_be_drawn_is_refused(graph, arguments, message, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    llmc("view", graph, *arguments).failed(message, hint)


def test_a_still_picture_of_many_graphs_is_refused(dumps, tmp_path):
    llmc("view", dumps, "-o", tmp_path / "x.svg").failed(
        "a still picture shows one graph or two, but dumps has 2", "-o FILE.html"
    )


def test_a_folder_of_dumps_cannot_be_compared(dumps, graph):
    llmc("view", graph, dumps).failed("is a folder of graphs, not one graph", "give one of:")


def test_a_browser_is_opened_on_request(graph, tmp_path, monkeypatch):
    import webbrowser

    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    result = llmc("view", graph, "-o", tmp_path / "x.html", "--open")
    assert opened == [(tmp_path / "x.html").as_uri()]
    assert "no browser was found here" in result.err
