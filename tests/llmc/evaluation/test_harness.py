"""Engines as models of lm-evaluation-harness, beside its own model of transformers."""

from __future__ import annotations

import tomllib
from importlib import import_module
from typing import Any

import pytest

import llmc
from compiler.errors import RequestError
from tests.llmc.evaluation.harness_tasks import NAMES, write_tasks
from tests.paths import MODELS, ROOT

pytest.importorskip("lm_eval")
pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def results(whole_context, tmp_path_factory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the harness gives for the checkpoint by transformers and for its engine."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from llmc.evaluation.harness import LlmcLM

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        manager = TaskManager(
            include_path=str(write_tasks(tmp_path_factory.mktemp("tasks"))), include_defaults=False
        )  # fmt: skip
        theirs = HFLM(pretrained=str(MODELS / "gptneox-tiny"), dtype="float32", device="cpu", batch_size=4)
        how: Any = {"tasks": NAMES, "task_manager": manager, "bootstrap_iters": 0, "log_samples": True}
        return tuple(lm_eval.simple_evaluate(model=model, **how) for model in (theirs, LlmcLM(whole_context)))


@pytest.mark.parametrize("task", NAMES)
def test_results_are_those_of_transformers(results, task):
    theirs, ours = results
    assert theirs["results"][task].keys() == ours["results"][task].keys()
    for key, value in theirs["results"][task].items():
        assert ours["results"][task][key] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value)
    assert len(theirs["samples"][task]) > 1
    for wanted, found in zip(theirs["samples"][task], ours["samples"][task], strict=True):
        assert wanted["arguments"] == found["arguments"]
        for one, other in zip(wanted["filtered_resps"], found["filtered_resps"], strict=True):
            if isinstance(one, tuple):  # a log-probability, and whether it is greedy
                assert other == (pytest.approx(one[0], abs=1e-4), one[1])
            else:
                assert other == (pytest.approx(one, rel=1e-6) if isinstance(one, float) else one)


def test_the_tasks_tell_models_apart(results):
    _, ours = results
    texts = [sample["filtered_resps"][0] for sample in ours["samples"]["own_texts"]]
    assert any(texts)
    assert not any("\n" in text or " the" in text for text in texts)
    # More tokens than the context has, so that there are several windows.
    assert -ours["samples"]["own_rolling"][2]["filtered_resps"][0] > 512


@pytest.fixture(scope="module")
def model(whole_context):
    from llmc.evaluation.harness import LlmcLM

    return LlmcLM(llmc.load(whole_context, executor="torch", device="cpu"), batch_size=2)


class Request:
    """What the harness asks."""

    def __init__(self, *args: Any) -> None:
        self.args = args


def test_parameters_of_a_task_reach_the_engine(model):
    drawn = {"until": [" zebra"], "max_gen_toks": 12, "do_sample": True, "temperature": 0.9, "top_k": 20, "seed": 3}
    prompts = ["The function returns", "Once upon a time there was a", "A"]
    texts = model.generate_until([Request(text, drawn) for text in prompts])
    params = {"max_new_tokens": 12, "do_sample": True, "temperature": 0.9, "top_k": 20, "seed": 3}
    assert texts == [each.text for each in model.engine.generate(prompts, params, stop=[" zebra"])]
    greedy = model.generate_until([Request(text, {"until": [], "max_gen_toks": 12}) for text in prompts])
    assert greedy != texts
    assert len(model.tok_encode(model.generate_until([Request("A", {"max_gen_toks": 3})])[0])) <= 4
    with pytest.raises(RequestError, match=r"a task asks for tempertaure=1.0, which llmc has not; did you mean"):
        model.generate_until([Request("A", {"tempertaure": 1.0})])
    with pytest.raises(RequestError, match="512 new tokens leave no room for a prompt: the engine takes 512 tokens"):
        model.generate_until([Request("A", {"max_gen_toks": 512})])


def test_texts_with_nothing_before_them_begin_with_the_start_token(model):
    assert model.prefix_token_id == model.eot_token_id == 0
    ((logprob, _),) = model.loglikelihood([Request("", "The function")], disable_tqdm=True)
    assert logprob == pytest.approx(model.loglikelihood_rolling([Request("The function")])[0], abs=1e-4)
    assert model.generate_until([Request("", {"max_gen_toks": 4})])[0]


def test_arguments_of_the_model_win_over_options_of_the_harness(whole_context):
    from lm_eval.api.registry import get_model

    made = get_model("llmc").create_from_arg_string(
        f"engine={whole_context},executor=torch,batch_size=3,max_length=64", {"batch_size": 1, "device": "cuda:0"}
    )
    assert (made.batch_size, made.max_length, made.engine.executor.name) == (3, 64, "torch")
    assert get_model("llmc").create_from_arg_obj({"engine": whole_context}, {"batch_size": "auto"}).batch_size == 4
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lm_eval.models"]["llmc"]
    module, _, name = entry.partition(":")
    assert getattr(import_module(module), name) is get_model("llmc")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "the model arguments name no engine"),
        ({"engin": "a"}, "there is no model argument 'engin'; did you mean 'engine'?"),
        ({"engine": None, "batch_size": "many"}, "batch_size is 'many'"),
        ({"engine": None, "batch_size": 0}, "batch_size is 0"),
        ({"engine": None, "max_length": 513}, "max_length is 513; the engine takes 2 to 512"),
    ],
)
def test_arguments_that_cannot_be_are_named(model, arguments, message):
    from llmc.evaluation.harness import LlmcLM

    given = {name: model.engine if name == "engine" else value for name, value in arguments.items()}
    with pytest.raises(RequestError) as error:
        LlmcLM.create_from_arg_obj(given)
    assert message in error.value.message
