"""FasterTransformer directories in several parts lift to the model that transformers has; damaged ones are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from compiler.errors import ConfigError
from compiler.frontends import lift, open_checkpoint
from tests.frontends.layouts.compared import LIMITS, assert_same_logits, assert_same_model, lifted, refusal, weights
from tests.frontends.layouts.ft_writer import write_gpt2, write_gptj, write_mpt, write_neox, write_opt
from tests.frontends.models import logits_of, neox_config, random_model
from tests.frontends.steps import assert_same_logits as assert_logits_of

NEOX = {"vocab_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "hidden_size": 32}
GPTJ = {"vocab_size": 32, "n_embd": 32, "n_head": 4, "n_layer": 2, "rotary_dim": 4}
OPT = {"vocab_size": 32, "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2, "ffn_dim": 24}
MPT = {"vocab_size": 32, "d_model": 16, "n_heads": 4, "n_layers": 2, "max_seq_len": 32}
FUSED = "model.layers.1.attention.query_key_value.weight"


def neox(**keys: Any) -> Any:
    model = random_model(transformers.GPTNeoXForCausalLM, neox_config(**(NEOX | keys)), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # so that parts of them are exact, in float16 as well
                parameter.copy_((parameter * 256).round() / 256)
    return model


def gptj(**keys: Any) -> Any:
    return random_model(transformers.GPTJForCausalLM, transformers.GPTJConfig(**(GPTJ | keys)), seed=2)


def opt(**keys: Any) -> Any:
    config = transformers.OPTConfig(**{**OPT, "word_embed_proj_dim": 16, "max_position_embeddings": 32, **keys})
    return random_model(transformers.OPTForCausalLM, config, seed=3)


def mpt(**keys: Any) -> Any:
    return random_model(transformers.MptForCausalLM, transformers.MptConfig(**(MPT | keys)), seed=4)


FAMILIES: dict[str, tuple[Callable[..., Any], Callable[..., Path]]] = {
    "gpt_neox": (neox, write_neox),
    "gptj": (gptj, write_gptj),
    "opt": (opt, write_opt),
    "mpt": (mpt, write_mpt),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """For each family a model, and the folder that transformers saves it to."""
    found = {}
    for family, (make, _) in FAMILIES.items():
        model, folder = make(), tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        found[family] = (model, folder)
    return found


@pytest.mark.parametrize("degree", [1, 2, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_parts_are_merged(expected, tmp_path, family, degree):
    model, folder = expected[family]
    assert_same_model(FAMILIES[family][1](model, tmp_path, degree), folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers_files(expected, tmp_path, family):
    model, folder = expected[family]
    assert_same_logits(FAMILIES[family][1](model, tmp_path, 2), folder, vocab=32)


@pytest.mark.parametrize("family", FAMILIES)
def test_float16(tmp_path, family):
    make, write = FAMILIES[family]
    model = make().half()
    model.save_pretrained(tmp_path / "expected")
    assert_same_model(write(model, tmp_path / "ft", 2, "fp16"), tmp_path / "expected")


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("gpt_neox", {"use_parallel_residual": False}),
        ("gpt_neox", {"tie_word_embeddings": True}),
        ("opt", {"do_layer_norm_before": False}),
    ],
)
def test_variants(tmp_path, family, keys):
    make, write = FAMILIES[family]
    model = make(**keys)
    model.save_pretrained(tmp_path / "expected")
    assert_same_model(write(model, tmp_path / "ft", 2), tmp_path / "expected")


def test_all_dims_rotate(tmp_path):
    model = gptj(rotary_dim=8)
    model.save_pretrained(tmp_path / "expected")
    assert_same_model(write_gptj(model, tmp_path / "ft", 2, rotary_embedding=None), tmp_path / "expected")


def test_narrow_embeddings_were_multiplied_out(tmp_path):
    model = opt(word_embed_proj_dim=8, do_layer_norm_before=False)
    graph = lifted(write_opt(model, tmp_path, 2))
    assert_logits_of(graph, logits_of(model), vocab=32, seed=1)


def test_gpt2_is_a_variant_of_mpt(tmp_path):
    config = transformers.GPT2Config(vocab_size=32, n_embd=16, n_head=4, n_layer=2, n_positions=32)
    model = random_model(transformers.GPT2LMHeadModel, config, seed=5)
    graph = lifted(write_gpt2(model, tmp_path, 2))
    assert_logits_of(graph, logits_of(model), vocab=32, seed=1)


def test_learned_positions_of_mpt(tmp_path):
    """Without biases it is an MPT, whose GELU is exact."""
    model = mpt()
    folder = write_mpt(model, tmp_path, 2, has_positional_encoding=True, use_attention_linear_bias=False)
    torch.zeros(32, 16).numpy().tofile(folder / "2-gpu" / "model.wpe.bin")
    graph = lifted(folder)
    assert graph.facts["positions"] == "learned"
    assert {op.attrs.get("tanh", False) for op in graph.find("gelu")} == {False}


def test_the_folder_of_the_parts_itself(expected, tmp_path):
    model, folder = expected["gptj"]
    assert_same_model(write_gptj(model, tmp_path, 2) / "2-gpu", folder)


def test_what_config_ini_does_not_say_is_noted(expected, tmp_path):
    assert open_checkpoint(write_neox(expected["gpt_neox"][0], tmp_path, 1)).notes == [
        "GELU is computed exactly, as in transformers; FasterTransformer approximated it by tanh",
        "config.ini does not say how long sequences may be: 2048 tokens are assumed (--max-seq)",
    ]


def test_biases_of_one_sum_over_ranks_are_used_as_stored(tmp_path):
    model = neox(use_parallel_residual=False)
    graph = lifted(write_neox(model, tmp_path, 4))
    bias = model.state_dict()["gpt_neox.layers.0.attention.dense.bias"]
    assert torch.equal(weights(graph)["layers.0.attn.out.bias"], bias)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_are_made_up(expected, tmp_path, family):
    folder = FAMILIES[family][1](expected[family][0], tmp_path, 2)
    graph = lift(open_checkpoint(folder, dummy_weights=True), limits=LIMITS)
    assert not list(graph.find("const"))
    assert graph.facts["parameters"] == lifted(folder).facts["parameters"]


def test_a_norm_whose_epsilon_is_not_said(tmp_path):
    config = transformers.GPT2Config(vocab_size=32, n_embd=16, n_head=4, n_layer=1, n_positions=32)
    model = random_model(transformers.GPT2LMHeadModel, config, seed=5)
    folder = write_gpt2(model, tmp_path, 1, layernorm_eps="", inter_size="64.0")
    assert open_checkpoint(folder).notes == [
        "config.ini does not say 'layernorm_eps': 1e-6 is taken, as FasterTransformer does"
    ]
    assert {op.attrs["eps"] for op in lifted(folder).find("layer_norm")} == {1e-6}


def test_a_missing_part(expected, tmp_path):
    folder = write_mpt(expected["mpt"][0], tmp_path, 4)
    (folder / "4-gpu" / f"{FUSED}.2.bin").unlink()
    assert refusal(folder).message == f"{FUSED}.2.bin is missing from {folder}: the model is stored in 4 parts"


def test_a_missing_table(expected, tmp_path):
    folder = write_mpt(expected["mpt"][0], tmp_path, 1)
    (folder / "1-gpu" / "model.wte.bin").unlink()
    assert refusal(folder).message == f"model.wte.bin is missing from {folder}"


def test_ranks_that_were_left_behind(expected, tmp_path):
    folder = write_opt(expected["opt"][0], tmp_path, 4)
    for path in folder.glob("*/*.[23].bin"):
        path.unlink()
    assert refusal(folder).message == (
        "4-gpu/model.layers.0.attention.query_key_value.weight.0.bin has 768 bytes; [16,3,8] of float32, which "
        "config.ini calls for, takes 1,536: it is a part of 4, and 2 are there"
    )


def test_ranks_that_config_ini_knows_of(expected, tmp_path):
    folder = write_mpt(expected["mpt"][0], tmp_path, 2, tensor_para_size=4)
    assert refusal(folder).message == f"{folder} holds 2 parts; config.ini says 4"


def test_parts_of_another_model(expected, tmp_path):
    folder = write_gptj(expected["gptj"][0], tmp_path / "a", 2)
    other = write_gptj(gptj(n_embd=64), tmp_path / "b", 2)
    (folder / "2-gpu" / f"{FUSED}.1.bin").write_bytes((other / "2-gpu" / f"{FUSED}.1.bin").read_bytes())
    assert f"2-gpu/{FUSED}.1.bin has 24,576 bytes; [32,3,16] of float32" in refusal(folder).message


def test_a_file_of_no_tensor(expected, tmp_path):
    folder = write_mpt(expected["mpt"][0], tmp_path, 1)
    (folder / "1-gpu" / "model.layers.0.attention.q_ln.weight.bin").write_bytes(bytes(64))
    assert refusal(folder).message == (
        "the file 1-gpu/model.layers.0.attention.q_ln.weight.bin has no place in the model that config.ini describes"
    )


def test_several_models(expected, tmp_path):
    write_mpt(expected["mpt"][0], tmp_path, 1)
    write_mpt(expected["mpt"][0], tmp_path, 2)
    assert refusal(tmp_path).message == f"{tmp_path} holds several models: 1-gpu, 2-gpu"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"head_num": ""}, "[gptneox]: 'head_num' (nor 'n_head') is missing"),
        ({"num_layer": "two"}, "[gptneox]: 'num_layer' is 'two'; it must be an integer"),
        ({"weight_data_type": "int4"}, "[gptneox]: 'weight_data_type' is 'int4'; supported: fp32, float32"),
        ({"rotary_embedding": 99}, "[gptneox]: 'rotary_embedding' is '99'; a head has 8 dims"),
        ({"use_gptj_residual": "maybe"}, "'use_gptj_residual' is 'maybe'; it must be true or false"),
    ],
)
def test_configs_that_are_refused(expected, tmp_path, keys, message):
    error = refusal(write_neox(expected["gpt_neox"][0], tmp_path, 1, **keys))
    assert isinstance(error, ConfigError)
    assert message in error.message


def test_other_models(expected, tmp_path):
    folder = write_neox(expected["gpt_neox"][0], tmp_path, 1)
    (folder / "1-gpu" / "config.ini").write_text("[encoder]\nnum_layers = 2\n")
    assert refusal(folder).message.endswith("config.ini has none of the sections [gptneox], [gptj], [gpt]")
    (folder / "1-gpu" / "config.ini").write_text("[gpt]\nhas_adapters = True\nhead_num=4\nsize_per_head=8")
    assert "models with adapters are not supported" in refusal(folder).message
