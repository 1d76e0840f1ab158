"""What can be done about sequences that are too long follows from what is known about the model."""

import pytest

from compiler.ir.facts import larger_limits, most_positions
from compiler.ir.graph import Fact

LEARNED: dict[str, Fact] = {"positions": "learned", "context_length": 512}
ROTARY: dict[str, Fact] = {"positions": "rotary", "context_length": 512}


def test_only_learned_positions_end() -> None:
    assert most_positions(LEARNED) == 512
    assert most_positions(ROTARY) is None
    assert most_positions({"context_length": 512}) is None  # of an engine that does not say


@pytest.mark.parametrize(
    ("facts", "prompt", "sequence", "options"),
    [
        (LEARNED, 100, 100, "--max-input 100 --max-seq 100"),
        (LEARNED, 100, 512, "--max-input 100 --max-seq 512"),
        (LEARNED, 100, 513, None),
        (LEARNED, 513, 0, None),
        (LEARNED, 40, 60, "--max-input 40"),
        (LEARNED, 10, 65, "--max-seq 65"),
        (ROTARY, 600, 700, "--max-input 600 --max-seq 700"),
        (ROTARY, 600, 0, "--max-input 600 --max-seq 600"),
        ({}, 600, 0, "--max-input 600 --max-seq 600"),
    ],
)
def test_options_are_named_that_can_be_followed(facts, prompt, sequence, options) -> None:
    assert larger_limits(facts, max_input=32, max_seq=64, prompt=prompt, sequence=sequence) == options
