"""Exporters: from a graph back to a checkpoint in the Hugging Face layout, plain or in a format of quantized weights.

The graph is compared with the one that its family's frontend makes of the config (`template`, `correspondence`), which
says where each tensor of a checkpoint is; what the frontend did to it is undone (`assembly`); a format says what is
stored (`formats`), and `shards` writes it.
"""

from compiler.exporters.formats import FORMATS, Format
from compiler.exporters.plan import ExportPlan, find_format, plan_export
from compiler.exporters.shards import shards_of, write_shards

__all__ = ["FORMATS", "ExportPlan", "Format", "find_format", "plan_export", "shards_of", "write_shards"]
