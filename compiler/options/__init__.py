"""Things that users name in texts, with options: passes and targets, as `quant=awq:group=128`."""

from compiler.options.fields import REQUIRED, Formerly, Option
from compiler.options.grammar import Grammar
from compiler.options.info import MakerInfo, is_frozen

__all__ = ["REQUIRED", "Formerly", "Grammar", "MakerInfo", "Option", "is_frozen"]
