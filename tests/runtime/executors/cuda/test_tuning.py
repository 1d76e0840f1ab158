"""Which launch is chosen for a product."""

import json

import pytest

from compiler.cache import cache_folder
from runtime.executors.cuda.kernels.tuning import BY_LIBRARY, SPLITS, Case, Config, Tuning, _shipped, tiles

H100 = ("NVIDIA H100", 132, 232448)
CASE = Case("int4", 16, 128, 4096, 4096, 16, False)
MEASURED = Config("dot", 64, 128, 4, 3, 5)


@pytest.mark.parametrize("n", [64, 4096, 50257, 250000])
@pytest.mark.parametrize("k", [64, 4096, 20480])
@pytest.mark.parametrize("form", ["dense", "int8", "int4", "float8"])
def test_rules_give_a_launch_for_any_shape(form, k, n):
    for rows in (1, 16, 32, 64, 128, 512):
        for bits in (16, 32) if rows <= 64 else (16,):
            case = Case(form, bits, 0, n, k, rows, False)
            config = Tuning(*H100).config(case)
            assert config[:4] == tiles(case)[0][:4]
            assert config.split in SPLITS
            assert config.split == 1 or k // config.split >= 256


def test_few_programs_split_their_sums():
    assert Tuning(*H100).config(CASE._replace(n=1024)).split > Tuning(*H100).config(CASE._replace(n=65536)).split


def test_a_launch_fits_into_the_memory_of_the_gpu():
    small = Tuning("small", 40, 64 << 10, shipped={CASE.key: MEASURED._replace(bn=128, bk=256, stages=8)})
    config = small.config(CASE)
    assert 1 <= config.stages < 8
    assert config.stages * (128 * 256 // 2 + 256 * 16 * 2) <= 64 << 10


def test_what_was_measured_is_taken_and_what_is_like_it_follows():
    tuning = Tuning(*H100, known={CASE.key: MEASURED})
    assert tuning.config(CASE) == MEASURED
    assert tuning.config(CASE._replace(partial=True)) == MEASURED
    wider = tuning.config(CASE._replace(n=5 * 4096))
    assert wider == MEASURED._replace(split=1)
    assert tuning.config(CASE._replace(rows=8)) == MEASURED
    assert tuning.config(CASE._replace(rows=1)) == Tuning(*H100).by_rule(CASE._replace(rows=1))
    assert tuning.config(CASE._replace(form="int8")) == Tuning(*H100).by_rule(CASE._replace(form="int8"))


def test_candidates_are_launches_that_can_be():
    tuning = Tuning(*H100)
    candidates = list(tuning.candidates(CASE))
    assert len(set(candidates)) == len(candidates) > 5
    assert all(CASE.k % (c.bk * c.split) == 0 for c in candidates)


def test_libraries_are_taken_for_many_rows_where_they_were_faster():
    many = CASE._replace(rows=256)
    candidates = list(Tuning(*H100).candidates(many))
    assert {c.kind for c in candidates} == {"wide", "library"}
    assert {c.bm for c in candidates if c.kind == "wide"} == {64, 128}
    tuning = Tuning(*H100, known={many.key: BY_LIBRARY, CASE.key: MEASURED})
    assert tuning.config(many) == tuning.config(many._replace(n=512, rows=512)) == BY_LIBRARY
    assert tuning.config(CASE._replace(rows=64)).kind == "dot"
    assert Tuning(*H100, known={CASE.key: MEASURED}).config(many).kind == "wide"


def test_what_was_measured_is_kept_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for case in (CASE, CASE._replace(rows=1)):  # the second process has not read what the first one wrote
        tuning = Tuning(*H100)
        tuning.keep(case, MEASURED)
        tuning.write()
    again = Tuning(*H100)
    again.read()
    assert again.known == {CASE.key: MEASURED, CASE._replace(rows=1).key: MEASURED}
    assert not again.notes
    assert len(list(cache_folder().iterdir())) == 1


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"format": 99}), "\x00"])
def test_a_damaged_file_is_ignored_with_a_note(text, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tuning = Tuning(*H100)
    tuning.keep(CASE, MEASURED)
    tuning.write()
    (path,) = cache_folder().iterdir()
    path.write_text(text)
    again = Tuning(*H100)
    again.read()
    assert not again.known
    assert str(path) in again.notes[0]


def test_entries_that_cannot_be_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tuning = Tuning(*H100)
    tuning.write()
    (path,) = cache_folder().iterdir()
    good = list(MEASURED)
    wide = ["wide", 64, 64, 4, 4, 1]
    bad = {
        "x": good,
        CASE._replace(rows=8).key: wide,
        CASE._replace(rows=128).key: [*wide, 48],
        CASE._replace(rows=16).key: ["dot", 65, 128, 4, 3, 1],
        CASE._replace(rows=32).key: "?",
    }
    path.write_text(json.dumps({"format": 1, "launches": {**bad, CASE._replace(rows=64).key: good}}))
    kept = json.loads(path.read_text())
    kept["launches"] |= {CASE._replace(rows=256).key: [*wide, 64], CASE._replace(rows=1).key: good[:6]}
    path.write_text(json.dumps(kept))
    again = Tuning(*H100)
    again.read()
    assert again.known == {
        CASE._replace(rows=64).key: MEASURED,
        CASE._replace(rows=256).key: Config("wide", 64, 64, 4, 4, 1, 64),
        CASE._replace(rows=1).key: MEASURED,
    }


def test_a_folder_that_cannot_be_written_is_noted(tmp_path, monkeypatch):
    (tmp_path / "llmc").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tuning = Tuning(*H100)
    tuning.keep(CASE, MEASURED)
    tuning.write()
    assert "cannot be kept" in tuning.notes[0]


def test_shapes_near_to_those_measured_on_such_a_gpu_are_known():
    case = Case("int8", 16, 0, 4096, 16384, 64, False)
    near, far = case._replace(n=6144), case._replace(n=64)
    gpus = ("NVIDIA H100 80GB HBM3", "NVIDIA H200", "other")
    assert _shipped("other") == _shipped(gpus[0])
    tables = [Tuning(gpu, *H100[1:], shipped=_shipped(gpu)) for gpu in gpus]
    assert [[table.is_known(each) for each in (case, near, far)] for table in tables] == [
        [True, True, False], [True, True, False], [False, False, False]
    ]  # fmt: skip
    tables[-1].keep(far, MEASURED)
    assert tables[-1].is_known(far) and not tables[-1].is_known(far._replace(form="float8"))
