"""Every parameter of a request has an option, and what is wrong with one is said by its name."""

import inspect
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from compiler.errors import ConfigError, LlmcError
from llmc.cli.run_command import _params
from llmc.cli.sampling_options import OPTIONS, sampling_options
from llmc.cli.usage import StrictCommand
from runtime.generation.sampling_params import SamplingParams
from tests.cli.llmc_command import llmc

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
seen: list[dict[str, Any]] = []


@app.command(cls=StrictCommand)
@sampling_options
def probe(first: str = "", *, sampling: dict[str, Any]) -> None:
    """Remember what is given."""
    seen.append(sampling)


def changes(*arguments: Any) -> dict[str, Any]:
    """What options give."""
    seen.clear()
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)
    if isinstance(result.exception, LlmcError):
        raise result.exception
    assert result.exit_code == 0, result.output
    [sampling] = seen
    return sampling


def test_every_field_has_an_option() -> None:
    names = [field.name for field in fields(SamplingParams)]
    assert list(OPTIONS) == [name for name in names if name != "logits_processors"]
    offered = inspect.signature(probe).parameters
    assert set(offered) == {"first", "params", *OPTIONS}
    shown = llmc("run", "--help").out
    assert [option for option in OPTIONS.values() if f" {option}" not in shown] == []


def test_the_help_has_sections() -> None:
    shown = llmc("run", "--help").out
    titles = [line.removesuffix(":") for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Arguments", "Options", "Stopping", "Sampling", "Penalties", "Beam search", "Reports"]
    assert shown.index("Beam search:") < shown.index("--num-beams, --beams N") < shown.index("Reports:")


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ((), {}),
        (("--max-new-tokens", 5, "--ignore-eos"), {"max_new_tokens": 5, "ignore_eos": True}),
        (("--max-time", 2), {"max_time": 2.0}),
        (("--stop", "a b", "--stop", "c"), {"stop": ("a b", "c")}),
        (("--stop-token-ids", "1, 2"), {"stop_token_ids": (1, 2)}),
        (("--temperature", 0.5, "--top-k", -1), {"temperature": 0.5, "top_k": 0}),
        (("--no-do-sample",), {"do_sample": False}),
        (("--frequency-penalty", -1), {"frequency_penalty": -1.0}),
        (("--bad-words-ids", "1,2", "--bad-words-ids", 3), {"bad_words_ids": ((1, 2), (3,))}),
        (("--logit-bias", "5=-2.5", "--logit-bias", "6=1"), {"logit_bias": {5: -2.5, 6: 1.0}}),
        (("--sequence-bias", "5,6=-2"), {"sequence_bias": (((5, 6), -2.0),)}),
        (("--exponential-decay-length-penalty", "9,1.5"), {"exponential_decay_length_penalty": (9, 1.5)}),
        (("--beams", 4, "--early-stopping", "never"), {"num_beams": 4, "early_stopping": "never"}),
        (("--num-beams", 4, "--early-stopping", "true"), {"num_beams": 4, "early_stopping": True}),
        (("--no-renormalize-logits",), {"renormalize_logits": False}),
        (("--logprobs", 0), {"logprobs": 0}),
    ],
)
def test_only_what_is_given_is_a_change(arguments: tuple[Any, ...], given: dict[str, Any]) -> None:
    assert changes(*arguments) == given


def test_a_file_holds_fields_and_options_win_over_it(tmp_path: Path) -> None:
    file = tmp_path / "params.json"
    params = SamplingParams(top_p=0.9, logit_bias={5: -1.0}, stop=["a"], seed=3, sequence_bias=[([1, 2], 1.0)])
    file.write_text(json.dumps(params.to_json()))
    assert SamplingParams(**changes("--params", file)) == params
    assert SamplingParams(**changes("--params", file, "--top-p", 0.5, "--stop", "b")) == SamplingParams(
        top_p=0.5, logit_bias={5: -1.0}, stop=["b"], seed=3, sequence_bias=[([1, 2], 1.0)]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--top-p", 1.5), "--top-p is 1.5; it must be a finite number at least 0 and at most 1"),
        (("--temperature", "nan"), "--temperature is nan"),
        (("--n", 0), "--n is 0; it must be an integer of at least 1"),
        (("--stop-token-ids", "1,a"), "--stop-token-ids '1,a' is no list of token ids"),
        (("--stop-token-ids", "-1"), r"--stop-token-ids is \[-1\]"),
        (("--bad-words-ids", "1;2"), "--bad-words-ids '1;2' is no list of token ids"),
        (("--logit-bias", "5"), "--logit-bias '5' is not token ids and a number"),
        (("--logit-bias", "5,6=1"), "--logit-bias takes a number for one token, not for 5,6"),
        (("--logit-bias", "5=1", "--logit-bias", "5=2"), "--logit-bias is given twice for 5"),
        (("--logit-bias", "5=inf"), r"--logit-bias\[5\] is inf"),
        (("--exponential-decay-length-penalty", "9"), "'9' is not START,FACTOR"),
        (("--early-stopping", "maybe"), "--early-stopping is 'maybe'; it must be true, false or never"),
        (("--params", "-"), "--params does not read standard input"),
        (("--params", "missing.json"), "cannot read the parameters in missing.json: No such file"),
    ],
)
def test_what_is_wrong_is_said_by_the_name_of_the_option(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(LlmcError, match=message):
        changes(*arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"params\.json is no JSON"),
        ("[1]", r"params\.json holds \[1\], not an object"),
        ('{"top_p": 2}', r"params\.json: top_p is 2"),
        (
            '{"tempreature": 1}',
            r"params\.json: there is no sampling parameter 'tempreature'; did you mean 'temperature'",
        ),
        ('{"max_tokens": 1}', r"params\.json: there is no .* 'max_tokens'; did you mean 'max_new_tokens'"),
        ('{"seed": 1, "top_k": 2, "seed": 3}', r"params\.json gives 'seed' twice"),
        ('{"logit_bias": {"5": 1, "5": 2}}', r"params\.json gives '5' twice"),
        ('{"logits_processors": []}', r"params\.json: logits_processors cannot be given in JSON"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_by_its_key(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "params.json").write_text(content)
    with pytest.raises(LlmcError, match=message):
        changes("--params", tmp_path / "params.json")


def test_an_option_that_is_given_twice_is_an_error(engine: Path) -> None:
    for twice in (("--top-k", 1, "--top-k", 2), ("--num-beams", 2, "--beams", 3), ("--do-sample", "--no-do-sample")):
        result = llmc("run", engine, "--prompt", "a", *twice)
        assert result.status == 2
        assert "is given 2 times" in result.err
    assert "--stop is empty" in llmc("run", engine, "--prompt", "a", "--stop", "").err


def edited(engine: Path, folder: Path, generation: object) -> Path:
    """A folder with the manifest of an engine, in which the defaults of requests are others."""
    content = json.loads((engine / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**content, "generation": generation}))
    return folder


def test_the_engines_defaults_hold_for_what_is_not_given(engine: Path, tmp_path: Path) -> None:
    assert _params(engine, {}) == SamplingParams(do_sample=False)
    assert not _params(engine, {"temperature": 0.7}).greedy
    place = edited(engine, tmp_path, {"do_sample": True, "top_p": 0.9, "max_new_tokens": 7, "stop_strings": "END"})
    defaults = SamplingParams(do_sample=True, top_p=0.9, max_new_tokens=7, stop=["END"])
    assert _params(place, {}) == defaults
    assert _params(place, {"top_p": 0.5, "stop": ()}) == SamplingParams(do_sample=True, top_p=0.5, max_new_tokens=7)
    with pytest.raises(ConfigError, match="top_p is 2"):
        _params(edited(engine, tmp_path, {"top_p": 2}), {})


def test_contradictions_are_said_before_the_engine_is_loaded(engine: Path, tmp_path: Path) -> None:
    place = edited(engine, tmp_path, {})  # there are no weights
    llmc("run", place, "--prompt", "a", "--n", 3).failed("n is 3, but greedy decoding gives the same text", "draw")
    llmc("run", place, "--prompt", "a", "--beams", 2, "--top-p", 0.5).failed("contradict each other")
    llmc("run", place, "--prompt", "a", "--top-p", 1.5).failed("--top-p is 1.5")


def test_the_number_of_new_tokens_may_come_from_a_file(engine: Path, tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text('{"max_new_tokens": 3, "ignore_eos": true}')
    arguments = ("run", engine, "--prompt", "a", "--json", "--params", tmp_path / "params.json")
    assert len(json.loads(llmc(*arguments).out)["token_ids"]) == 3
    assert len(json.loads(llmc(*arguments, "--max-new-tokens", 2).out)["token_ids"]) == 2
