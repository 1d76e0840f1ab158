"""The plans of a rank: engines of one model, each for steps of certain sizes, over one file of weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from compiler.errors import EngineError
from compiler.json_fields import Fields
from compiler.os_errors import reading_hint

SCHEMA = 1
_AGAIN = "compile the engine again"


@dataclass(frozen=True)
class PlanFiles:
    """A plan.

    Attributes:
        name: what it is for, such as `decode-b8-c512`.
        engine: the file that TensorRT loads.
        network: the file of its network record.
    """

    name: str
    engine: str
    network: str


@dataclass(frozen=True)
class Plans:
    """What TensorRT runs of a rank; the files lie in the engine directory.

    Attributes:
        weights: the safetensors file in which the plans' weights lie.
        plans: the plans, for smaller steps first.
        plugins: the plug-ins that they call, as `NAMESPACE::NAME`; empty, too, if an older llmc wrote the list.
    """

    weights: str
    plans: tuple[PlanFiles, ...]
    plugins: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Every file but the weights'."""
        return tuple(file for plan in self.plans for file in (plan.engine, plan.network))

    def write(self, path: Path) -> None:
        """Write the list as JSON; OSError if that fails."""
        path.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2) + "\n", encoding="utf-8")


def read_plans(path: Path) -> Plans:
    """The list in a file that `Plans.write` wrote.

    Raises:
        EngineError: if it cannot be read, or is of another version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(f"cannot read {path}: {error}", hint=reading_hint(error, _AGAIN)) from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise EngineError(f"{path} is no list of plans of version {SCHEMA}", hint=f"{_AGAIN} with this llmc")
    fields = Fields(content, label=f"{path} is damaged: the key", error=EngineError, hint=_AGAIN)
    plans = [PlanFiles(*map(plan.string, ("name", "engine", "network"))) for plan in fields.sections("plans")]
    plugins = fields.string_list("plugins") if "plugins" in fields.values else ()
    return Plans(fields.string("weights"), tuple(plans), plugins)
