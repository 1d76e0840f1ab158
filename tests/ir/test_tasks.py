"""The fact that lists tasks."""

import pytest

from compiler.errors import GraphError
from compiler.ir.mesh import with_facts
from compiler.ir.parser import parse_graph
from compiler.ir.printer import print_graph
from compiler.ir.tasks import Task, tasks_fact, tasks_of


def test_tasks_are_read_back_from_a_graphs_text() -> None:
    tasks = (Task('one, "two": 3', "PROMPT_TUNING", 97, 3), Task("é", "PREFIX_TUNING", 100, 1))
    graph = with_facts(parse_graph("graph g\ninput x: f32[2]\noutput y = %x\n"), tasks=tasks_fact(tasks))
    assert tasks_of(parse_graph(print_graph(graph)).facts) == tasks
    assert tasks_of({}) == ()


def test_ids_follow_each_other() -> None:
    assert Task("a", "P_TUNING", 97, 3).ids == [97, 98, 99]


@pytest.mark.parametrize("text", ["no JSON", "3", '[{"name": "a"}]', "[1]"])
def test_a_fact_that_lists_no_tasks_is_an_error(text: str) -> None:
    with pytest.raises(GraphError, match="the fact 'tasks' lists no tasks"):
        tasks_of({"tasks": text})
