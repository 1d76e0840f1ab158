"""The command line of `lm_eval`, which knows the model `llmc`: `python -m llmc.evaluation.lm_eval_cli --model llmc …`.

Releases of `lm_eval` that look for models in installed packages know it without this.
"""

from __future__ import annotations

import sys

from compiler.errors import LlmcError
from llmc.evaluation.extras import extra_module


def main() -> None:
    """Run `lm_eval` with the arguments of this process; what is wrong with the model is one message, and status 2."""
    try:
        extra_module("llmc.evaluation.harness", "lm_eval", "to run tasks")
        extra_module("lm_eval.__main__", "lm_eval", "to run tasks").cli_evaluate()
    except LlmcError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
