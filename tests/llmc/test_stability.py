"""The promise of docs/stability.md on the public API."""

import json

import pytest

import llmc
from tests.paths import ROOT
from tools.public_api import TARGET, parameters, public_api

PROMISED = json.loads(TARGET.read_text())


@pytest.mark.parametrize("name", PROMISED)
def test_a_public_name_stays_and_takes_what_it_took(name):
    assert name in llmc.__all__
    promised, now = PROMISED[name], parameters(getattr(llmc, name))
    assert (promised is None) == (now is None)
    if promised is None or now is None:
        return
    for parameter, was in promised.items():
        assert parameter in now, f"{name} took {parameter}"
        assert now[parameter]["kind"] == was["kind"]
        assert was["required"] or not now[parameter]["required"], f"{name} needs {parameter} now"
    by_place = [[each for each, how in of.items() if how["kind"].startswith("POSITIONAL")] for of in (promised, now)]
    assert by_place[1][: len(by_place[0])] == by_place[0]
    assert not [
        each for each, how in now.items() if each not in promised and how["required"] and how["kind"][:4] != "VAR_"
    ]


def test_every_public_name_is_promised():
    assert set(PROMISED) == set(public_api()), "python tools/public_api.py"


def test_the_page_names_the_versions():
    from compiler.ir.printer import TEXT_VERSION
    from runtime.engine_dir.manifest import SCHEMA

    page = (ROOT / "docs" / "stability.md").read_text()
    assert f"`TEXT_VERSION` of `compiler.ir.printer`, now {TEXT_VERSION}" in page
    assert f"`llmc.API_VERSION`, now {llmc.API_VERSION}" in page
    assert f"`schema`, now {SCHEMA}" in page
