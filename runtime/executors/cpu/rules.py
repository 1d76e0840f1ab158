"""Imports all rules, which registers them."""

import runtime.executors.cpu.attention_rules
import runtime.executors.cpu.product_rules
import runtime.executors.cpu.rounding_rules
import runtime.executors.cpu.row_rules  # noqa: F401
