"""Lists of plans as files."""

import json

import pytest

from compiler.errors import EngineError
from compiler.trt_network.plans import PlanFiles, Plans, read_plans

PLANS = Plans("w.safetensors", (PlanFiles("decode-b1-c256", "a.engine", "a.json"), PlanFiles("prefill", "b", "c")))


def test_a_list_comes_back_as_it_was_written(tmp_path):
    PLANS.write(tmp_path / "plans.json")
    assert read_plans(tmp_path / "plans.json") == PLANS


def test_the_files_of_all_plans():
    assert PLANS.files == ("a.engine", "a.json", "b", "c")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("[", "cannot read"),
        ("[]", "no list of plans of version 1"),
        (json.dumps({"schema": 2}), "no list of plans of version 1"),
        (json.dumps({"schema": 1, "weights": "w"}), "damaged"),
        (json.dumps({"schema": 1, "weights": "w", "plans": [{"name": "x"}]}), "damaged"),
        (json.dumps({"schema": 1, "weights": "w", "plans": 3}), "damaged"),
    ],
)
def test_damaged_lists(tmp_path, content, message):
    if content is not None:
        (tmp_path / "plans.json").write_text(content)
    with pytest.raises(EngineError, match=message) as error:
        read_plans(tmp_path / "plans.json")
    assert "plans.json" in error.value.message and error.value.hint
