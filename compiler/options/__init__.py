"""Things that users name in texts, with options: passes and targets, as `quant=awq:group=128`."""

from compiler.options.fields import Option
from compiler.options.grammar import Grammar
from compiler.options.info import MakerInfo

__all__ = ["Grammar", "MakerInfo", "Option"]
