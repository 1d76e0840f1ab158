"""Which windows calibration uses."""

import pytest

import llmc
from compiler.errors import PassError
from compiler.ir.mesh import with_facts
from compiler.ir.tasks import Task, tasks_fact
from compiler.passes.quant.calibration.source import CalibrationSource, current_calibration, find_calibration

GRAPH = llmc.parse("""
graph demo
fact vocab_size = 50
dim S = 1..4..64
input token_ids: i32[S]
output token_ids = %token_ids
""")


def test_windows_do_not_overlap_and_the_seed_decides():
    ids = tuple(i % 50 for i in range(400))
    source = CalibrationSource(documents=[ids], samples=5, length=8)
    windows = source.windows(GRAPH)
    starts = [ids[i : i + 8] for i in range(0, 400, 8)]
    assert windows.shape == (5, 8) and all(tuple(row) in starts for row in windows.tolist())
    assert windows.equal(source.windows(GRAPH))
    assert not windows.equal(CalibrationSource(documents=[ids], samples=5, length=8, seed=1).windows(GRAPH))


def test_without_settings_all_windows_of_the_models_length():
    assert CalibrationSource(documents=[(1,) * 200]).windows(GRAPH).shape == (3, 64)


def test_documents_follow_one_another():
    source = CalibrationSource(lambda text: [len(text)] * 3, ["ab", (9, 8, 7)], length=6)
    assert source.windows(GRAPH).tolist() == [[2, 2, 2, 9, 8, 7]]


def test_windows_with_the_virtual_tokens_of_each_task_come_last():
    tasks = (Task("a", "PROMPT_TUNING", 50, 2), Task("b", "PREFIX_TUNING", 52, 7))
    graph = with_facts(GRAPH, tasks=tasks_fact(tasks))
    source = CalibrationSource(documents=[tuple(range(1, 13))], length=4)
    texts, virtual = source.windows(GRAPH).tolist(), source.windows(graph).tolist()
    assert len(texts) == 3 and virtual[:3] == texts
    assert virtual[3:] == [[50, 51, *texts[0][:2]], [52, 53, 54, 55], [56, 57, 58, texts[1][0]]]
    assert len(source.at_most(2, graph).windows(graph)) == 5
    assert len(source.at_most(9, graph).windows(graph)) == 6


def test_default_text_is_used_without_documents():
    windows = CalibrationSource(lambda text: [len(text) % 50] * 64 if len(text) > 30_000 else []).windows(GRAPH)
    assert windows.shape == (1, 64)


@pytest.mark.parametrize(
    ("settings", "message", "mend"),
    [
        (
            {"documents": [(1,) * 100], "samples": 9},
            "100 tokens, which are too few: samples=9 of 64 take 576",
            "--calib-samples",
        ),
        ({"documents": [(1,)]}, "1 tokens, which are too few: samples=1 of 64 take 64", "longer text"),
        ({"documents": [(1,) * 99], "length": 65}, "takes 2 to 64", "--calib-length"),
        ({"documents": [(1,) * 99], "samples": 0}, "0 samples", "--calib-samples"),
        ({"documents": [(50,) * 99]}, "the token 50, but the model knows 50", "another model"),
        ({"documents": ["text"]}, "no tokenizer", "token_ids"),
    ],
)
def test_what_cannot_work_is_refused(settings, message, mend):
    with pytest.raises(PassError, match=message) as caught:
        CalibrationSource(**settings).windows(GRAPH)
    assert mend in str(caught.value)


def test_reaches_passes_by_the_context():
    assert find_calibration() is None
    with pytest.raises(PassError, match="needs data"):
        current_calibration()
    source = CalibrationSource()
    with source.active():
        assert current_calibration() is source
    assert find_calibration() is None
