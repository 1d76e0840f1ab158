"""The guide lists what there is, and its code works."""

import re

import torch

from compiler.trt_emulator.layers import emulated_kinds
from tests.paths import DOCS
from tests.registrations import forgotten
from tests.trt_emulator.networks import evaluate

GUIDE = (DOCS / "emulator.md").read_text()


def test_every_kind_of_layer_is_in_the_guide():
    rows = "\n".join(line.split("|")[1] for line in GUIDE.splitlines() if line.startswith("|"))
    kinds = set(re.findall(r"[A-Z]{2,}(?:_[A-Z]+)*|[a-z]+::[a-z]+", rows)) - {"INT", "FP"}
    assert kinds == {*emulated_kinds(), "CONSTANT"}


def test_the_guides_layer_works():
    code = re.search(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    assert code is not None
    indices, values, depth = torch.tensor([[2, 0, 5]]), torch.tensor([0.5, 3.0]), torch.tensor(3, dtype=torch.int32)
    with forgotten():
        exec(compile(code[1], "emulator.md", "exec", dont_inherit=True), {"__name__": "guide"})
        result = evaluate("ONE_HOT", [indices, values, depth], "FLOAT", (1, 3, 3), constants=[2], axis=1)
    assert result.tolist() == [[[0.5, 3, 0.5], [0.5, 0.5, 0.5], [3, 0.5, 0.5]]]
