"""What type checkers and editors are told about the ops."""

from tools.op_methods import COMMAND, TARGET, source


def test_typed_methods_are_those_of_the_ops():
    assert TARGET.read_text(encoding="utf-8") == source(), f"{TARGET.name} is out of date; renew it: {COMMAND}"
