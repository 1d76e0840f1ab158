"""The pass `prompts`: prompt tuning and prefix tuning, a table of virtual tokens for each task."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from compiler.adapters.adapter import PromptAdapter
from compiler.adapters.reading import name_of_adapter, read_prompt_adapter
from compiler.adapters.virtual_tokens import add_virtual_tokens
from compiler.errors import PassError
from compiler.ir.cache_layout import LINEAR
from compiler.ir.graph import Graph
from compiler.ir.mesh import mesh_of, with_facts
from compiler.ir.paged_layout import layout_of
from compiler.ir.step import TOKEN_IDS
from compiler.ir.tasks import TASKS, Task, tasks_fact
from compiler.passes.registry import register

PASS_NAME = "prompts"


@register(PASS_NAME)
@dataclass(frozen=True)
class AddPrompts:
    """Give the model the virtual tokens of tasks, which PEFT has trained by prompt tuning, P-tuning or prefix tuning.

    Each folder is an adapter that PEFT has saved; a prompt table of FasterTransformer, the file
    `model.prompt_table.TASK.weight.bin` beside its `config.ini`, stands for one, too.

    A request that names its task has its virtual tokens before the prompt; one that names none is not changed.
    Embeddings of virtual tokens take the place of those that the model looks up, keys and values of a prefix the place
    of those that enter the caches.
    """

    adapters: Annotated[tuple[Path, ...], "the adapter folders, or prompt tables, one for each task"]
    tasks: Annotated[tuple[str, ...], "the names of the tasks; those of the adapters if there are none"] = ()

    def __post_init__(self) -> None:
        if not self.adapters:
            raise PassError(f"{PASS_NAME} names no adapter folder", hint=f"write {PASS_NAME}=FOLDER")
        if self.tasks and len(self.tasks) != len(self.adapters):
            raise PassError(
                f"{PASS_NAME} has {len(self.adapters)} adapter folders and {len(self.tasks)} names of tasks",
                hint=f"write a name for each folder: {PASS_NAME}=FOLDER+FOLDER:tasks=NAME+NAME",
            )
        if not all(self.names):
            raise PassError(f"{PASS_NAME}: a task has no name", hint="requests name it: write a name for each folder")
        twice = next((name for name, count in Counter(self.names).items() if count > 1), None)
        if twice is not None:
            raise PassError(
                f"{PASS_NAME} has two tasks of the name {twice!r}",
                hint=f"give them names of their own: {PASS_NAME}=FOLDER+FOLDER:tasks=NAME+NAME",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each task."""
        return self.tasks or tuple(map(name_of_adapter, self.adapters))

    def requires(self, graph: Graph) -> None:
        """The graph must be a step of one rank over linear caches without tasks, and of the adapters' model."""
        if TASKS in graph.facts:
            raise PassError("the graph has tasks already", hint=f"name all adapters in one {PASS_NAME}=FOLDER+FOLDER")
        if mesh_of(graph).size > 1 or layout_of(graph) != LINEAR:
            what = "split over ranks" if mesh_of(graph).size > 1 else "one of packed steps"
            raise PassError(f"the graph is {what} already", hint=f"write {PASS_NAME} before tp, pp and cache=paged")
        if "vocab_size" not in graph.facts or all(value.name != TOKEN_IDS for value in graph.inputs):
            raise PassError("the graph is no step of a model, which takes tokens", hint="apply it to a whole model")

    def __call__(self, graph: Graph) -> Graph:
        """The graph with the tasks; the fact `tasks` lists them."""
        # Prefixes come last: the ids of the others are the rows of one table of embeddings.
        adapters = {name: read_prompt_adapter(folder) for name, folder in zip(self.names, self.adapters, strict=True)}
        ordered = sorted(adapters.items(), key=lambda item: item[1].is_prefix)
        for name, adapter in ordered:
            _check_model(graph, name, adapter)
        tasks, first = [], int(graph.facts["vocab_size"])
        for name, adapter in ordered:
            tasks.append(Task(name, adapter.kind, first, adapter.virtual_tokens))
            first += adapter.virtual_tokens
        changed = add_virtual_tokens(graph, [adapter for _, adapter in ordered], pass_name=PASS_NAME)
        return with_facts(changed, **{TASKS: tasks_fact(tasks)})


def _check_model(graph: Graph, name: str, adapter: PromptAdapter) -> None:
    """PassError if the adapter was trained for another model, as far as its sizes tell."""
    sizes = (("layers", adapter.layers, "layers"), ("heads", adapter.heads, _heads(adapter)))
    for what, trained, fact in sizes:
        if trained is not None and fact in graph.facts and graph.facts[fact] != trained:
            raise PassError(
                f"the adapter of the task {name!r}, {adapter.path}, is for a model of {trained} {what}; "
                f"this one has {graph.facts[fact]}",
                hint="give an adapter that was trained for this checkpoint",
            )


def _heads(adapter: PromptAdapter) -> str:
    """The fact that the adapter's number of heads is that of."""
    return "kv_heads" if adapter.is_prefix else "heads"
