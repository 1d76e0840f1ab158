"""Tasks: the virtual tokens that a graph knows besides the tokens of its vocabulary.

A task has some virtual tokens, which requests of that task put before their prompts. Their ids follow those of the
vocabulary, so that they are no token of any text, and no logits are theirs. The fact `tasks` of a graph lists them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from compiler.errors import GraphError
from compiler.ir.graph import Fact

TASKS = "tasks"
"""The fact that lists the tasks, as JSON."""


@dataclass(frozen=True)
class Task:
    """A task, which a request names.

    Attributes:
        name: its name.
        kind: how its virtual tokens were trained, as PEFT calls it: `PROMPT_TUNING`, `P_TUNING` or `PREFIX_TUNING`.
        first_id: the id of its first virtual token; the others follow.
        virtual_tokens: how many virtual tokens it has.
    """

    name: str
    kind: str
    first_id: int
    virtual_tokens: int

    @property
    def ids(self) -> list[int]:
        """The ids of its virtual tokens, in order."""
        return list(range(self.first_id, self.first_id + self.virtual_tokens))

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)


def tasks_of(facts: Mapping[str, Fact]) -> tuple[Task, ...]:
    """The tasks that the facts of a graph list, in the order of their ids; none if it has no such fact.

    Raises:
        GraphError: if the fact lists no tasks.
    """
    text = str(facts.get(TASKS, "[]"))
    try:
        return tuple([Task(**entry) for entry in json.loads(text)])
    except (ValueError, TypeError):
        raise GraphError(f"the fact {TASKS!r} lists no tasks: {text}", hint="the pass prompts writes it") from None


def tasks_fact(tasks: Iterable[Task]) -> str:
    """Inverse of `tasks_of`: the value of the fact."""
    return json.dumps([task.to_json() for task in tasks])
