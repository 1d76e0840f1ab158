"""GPT-NeoX directories in several parts lift to the model that transformers has, and damaged ones are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from compiler.errors import CheckpointError, ConfigError
from compiler.frontends import lift, open_checkpoint
from tests.frontends.layouts.compared import LIMITS, assert_same_logits, assert_same_model, lifted, refusal, weights
from tests.frontends.layouts.neox_writer import write_by_layer, write_by_rank
from tests.frontends.models import neox_config, random_model

SIZES = {"vocab_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 32}
WRITERS = {"layer": write_by_layer, "rank": write_by_rank}
LAYER = "global_step10/layer_03-model_01-model_states.pt"


def model_of(**keys: Any) -> Any:
    """A model whose biases are of so few bits that the sums of their parts are exact."""
    model = random_model(transformers.GPTNeoXForCausalLM, neox_config(**(SIZES | keys)), seed=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_((parameter * 256).round() / 256)
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    return model_of(layer_norm_eps=1e-4)


@pytest.fixture(scope="module")
def expected(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("expected")
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("degree", [1, 2, 4])
@pytest.mark.parametrize("writer", WRITERS)
def test_parts_are_merged(model, expected, tmp_path, writer, degree):
    assert_same_model(WRITERS[writer](model, tmp_path, degree), expected)


def test_logits_are_those_of_transformers_files(model, expected, tmp_path):
    assert_same_logits(write_by_layer(model, tmp_path, 2), expected, vocab=32)


@pytest.mark.parametrize("writer", WRITERS)
def test_files_of_old_torch(model, expected, tmp_path, writer):
    assert_same_model(WRITERS[writer](model, tmp_path, 2, legacy=True), expected)


@pytest.mark.parametrize(
    "keys", [{"use_parallel_residual": False}, {"tie_word_embeddings": True}, {"hidden_act": "relu"}]
)
def test_variants(tmp_path, keys):
    model = model_of(**keys)
    model.save_pretrained(tmp_path / "expected")
    said: dict[str, Any] = {"activation": "relu"} if "hidden_act" in keys else {}
    assert_same_model(write_by_layer(model, tmp_path / "neox", 2, **said), tmp_path / "expected")


def test_gelu_as_the_model_was_trained(tmp_path):
    model = model_of(hidden_act="gelu_new")
    model.save_pretrained(tmp_path / "expected")
    folder = write_by_layer(model, tmp_path / "neox", 2, bias_gelu_fusion=True)
    assert_same_model(folder, tmp_path / "expected")
    assert any("bias_gelu_fusion" in note for note in open_checkpoint(folder).notes)


def test_newer_names(model, expected, tmp_path):
    folder = write_by_layer(model, tmp_path, 2)
    for path in folder.glob("*/layer_*.pt"):
        state = torch.load(path)
        newer = {
            name.replace("dense_h_to_4h", "linear1").replace("dense_4h_to_h", "linear2"): tensor
            for name, tensor in state.items()
        }
        torch.save(newer, path)
    assert_same_model(folder, expected)


def test_names_of_transformer_engine(model, expected, tmp_path):
    folder = write_by_layer(model, tmp_path, 2)
    names = {
        "mlp.dense_h_to_4h.": "mlp.fc1_",
        "mlp.dense_4h_to_h.": "mlp.fc2_",
        "post_attention_layernorm.": "mlp.layer_norm_",
        "attention.query_key_value.": "attention.qkv.",
        "attention.dense.": "attention.proj.",
    }
    for path in folder.glob("*/layer_0[23]*.pt"):
        state: dict[str, Any] = {"mlp._extra_state": None}
        for name, tensor in torch.load(path).items():
            usual = next((old for old in names if name.startswith(old)), None)
            state[name if usual is None else name.replace(usual, names[usual])] = tensor
        torch.save(state, path)
    assert_same_model(folder, expected)


def test_norms_that_drifted_apart_are_averaged(model, tmp_path):
    folder = write_by_layer(model, tmp_path, 2)
    path = folder / "global_step10/layer_02-model_01-model_states.pt"
    state = torch.load(path)
    first = state["input_layernorm.weight"].clone()
    state["input_layernorm.weight"] += 1
    torch.save(state, path)
    assert torch.equal(weights(lifted(folder))["layers.0.ln1.weight"], (first + (first + 1)) / 2)


def test_a_step_and_a_config_beside_it(model, expected, tmp_path):
    folder = write_by_layer(model, tmp_path, 2)
    (folder / "global_step10" / "configs").rename(folder / "configs")
    assert_same_model(folder, expected)
    assert_same_model(folder / "global_step10", expected)
    (folder / "latest").unlink()
    assert_same_model(folder, expected)


def test_the_files_of_the_run_are_named(model, tmp_path):
    checkpoint = open_checkpoint(write_by_layer(model, tmp_path, 2))
    assert checkpoint.notes == [
        "mp_rank_00_model_states.pt and 3 more: the state of the training run, which is not read"
    ]
    assert len(checkpoint.files) == 2 * 5
    assert checkpoint.config_files == ("global_step10/configs/local_setup.yml", "global_step10/configs/model.yml")


def test_weights_that_are_made_up(model, tmp_path):
    folder = write_by_layer(model, tmp_path, 2)
    graph = lift(open_checkpoint(folder, dummy_weights=True), limits=LIMITS)
    assert not list(graph.find("const"))
    assert graph.facts["parameters"] == lifted(folder).facts["parameters"]


@pytest.mark.parametrize("kinds", [[[["flash"], 2]], [[["global", "flash"], "all"]], ["global", "flash"]])
def test_attention_to_all_that_was_before(model, expected, tmp_path, kinds):
    assert_same_model(write_by_layer(model, tmp_path, 1, **{"attention-config": kinds}), expected)


def test_a_missing_part(model, tmp_path):
    folder = write_by_layer(model, tmp_path, 2)
    (folder / LAYER).unlink()
    error = refusal(folder)
    assert error.message == (
        f"layer_03-model_01-model_states.pt is missing from {folder / 'global_step10'}: "
        "the model is stored in 2 tensor-parallel parts"
    )


def test_a_missing_layer(model, tmp_path):
    folder = write_by_layer(model, tmp_path, 2)
    for path in folder.glob("*/layer_05-*"):
        path.unlink()
    assert refusal(folder).message == (
        f"the layer 5 of the pipeline is missing from {folder}: its config says num_layers = 2 and no_weight_tying"
    )


@pytest.mark.parametrize("writer", WRITERS)
def test_a_rank_that_was_left_behind(model, tmp_path, writer):
    folder = WRITERS[writer](model, tmp_path, 4)
    for path in [*folder.glob("*/layer_*-model_03-*"), *folder.glob("*/mp_rank_03_*")]:
        path.unlink()
    assert refusal(folder).message == (
        f"{folder / 'global_step10'} holds the files of 3 tensor-parallel parts; "
        "its config says model_parallel_size = 4"
    )


def test_parts_of_another_degree(model, tmp_path):
    folder, other = write_by_layer(model, tmp_path / "a", 2), write_by_layer(model, tmp_path / "b", 4)
    (folder / LAYER).write_bytes((other / LAYER).read_bytes())
    assert refusal(folder).message.startswith("the tensor 'gpt_neox.layers.1.attention.query_key_value.weight'") or (
        "do not fit together" in refusal(folder).message
    )


def test_parts_of_another_model(model, tmp_path):
    folder = write_by_layer(model, tmp_path / "a", 2)
    other = write_by_layer(model_of(hidden_size=32), tmp_path / "b", 2)
    (folder / LAYER).write_bytes((other / LAYER).read_bytes())
    error = refusal(folder)
    assert error.message == (
        "the parts of 'gpt_neox.layers.1.input_layernorm.weight' do not fit together: "
        f"{LAYER.replace('model_01', 'model_00')} has [16], {LAYER} [32]"
    )


def test_an_unknown_tensor(model, tmp_path):
    folder = write_by_layer(model, tmp_path, 1)
    path = folder / "global_step10/layer_02-model_00-model_states.pt"
    torch.save({**torch.load(path), "attention.rotary.xpos": torch.zeros(2)}, path)
    assert refusal(folder).message == (
        "the tensor 'attention.rotary.xpos' in global_step10/layer_02-model_00-model_states.pt "
        "has no place in a GPT-NeoX model"
    )


def test_a_file_of_no_model(model, tmp_path):
    folder = write_by_layer(model, tmp_path, 1)
    (folder / "global_step10/layer_2_expert_0_mp_rank_00_model_states.pt").write_bytes(b"")
    assert "layer_2_expert_0_mp_rank_00_model_states.pt, whose place" in refusal(folder).message


def test_a_run_without_a_config(model, tmp_path):
    folder = write_by_layer(model, tmp_path, 1)
    for path in folder.glob("*/configs/*.yml"):
        path.unlink()
    error = refusal(folder)
    assert isinstance(error, ConfigError)
    assert error.message.startswith("there is no config of the GPT-NeoX run: no YAML file in ")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"num-attention-heads": None}, "'num_attention_heads' is null; it must be an integer"),
        ({"pos-emb": "alibi"}, "the key of the GPT-NeoX config 'pos_emb' is 'alibi', which is not supported"),
        ({"pos-emb": None}, "'pos_emb' is 'learned', which is not supported; supported"),
        ({"gpt-j-tied": True}, "'gpt_j_tied' is true, which is not supported"),
        ({"norm": "rmsnorm"}, "'norm' is 'rmsnorm'"),
        ({"attention-config": [[["local", "global"], 1]]}, "'attention_config' is 'local'"),
        ({"intermediate-size": 99}, "'intermediate_size' is 99; the stored weights have 24"),
    ],
)
def test_configs_that_are_refused(model, tmp_path, keys, message):
    error = refusal(write_by_layer(model, tmp_path, 2, **keys))
    assert isinstance(error, ConfigError)
    assert message in error.message


def test_configs_of_two_models(model, tmp_path):
    folder = write_by_layer(model, tmp_path, 1)
    (folder / "global_step10/configs/other.yml").write_text("num_layers: 44")
    assert "give 'num_layers' different values: 2 and 44" in refusal(folder).message


def test_several_steps(model, tmp_path):
    folder = write_by_layer(model, tmp_path, 1)
    write_by_layer(model, tmp_path / "more", 1)
    (tmp_path / "more" / "global_step10").rename(folder / "global_step9")
    (folder / "latest").unlink()
    error = refusal(folder)
    assert error.message == f"{folder} holds 2 steps and no file 'latest' that names one"
    assert error.hint == f"give one of them, such as {folder / 'global_step10'}"


def test_a_step_that_was_left_behind(model, tmp_path):
    folder = write_by_layer(model, tmp_path, 1)
    (folder / "latest").write_text("global_step11")
    error = refusal(folder)
    assert error.message == f"{folder / 'latest'} names 'global_step11', which is no folder beside it"
    assert error.hint == "give one that is there: global_step10"
    (folder / "global_step10").rename(tmp_path / "moved")
    assert refusal(folder).message == error.message


@pytest.mark.parametrize(("kind", "ending"), [("HFTokenizer", 0), ("GPT2BPETokenizer", 50256)])
def test_the_token_that_ends_texts(model, tmp_path, kind, ending):
    folder = write_by_layer(model, tmp_path, 1, **{"tokenizer-type": kind})
    assert open_checkpoint(folder).config["eos_token_id"] == ending
    added = [{"id": 7, "content": "<|endoftext|>"}]
    (folder / "20B_tokenizer.json").write_text(json.dumps({"added_tokens": added, "model": {"vocab": {}}}))
    assert open_checkpoint(folder).config["eos_token_id"] == 7
    assert open_checkpoint(folder).tokenizer == folder / "20B_tokenizer.json"
    (folder / "20B_tokenizer.json").write_text("{")
    assert open_checkpoint(folder).config["eos_token_id"] == ending


def test_code_is_never_run(model, tmp_path):
    import os

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'touched'}",)

    folder = write_by_layer(model, tmp_path, 1)
    torch.save({"x": Evil()}, folder / "global_step10/layer_02-model_00-model_states.pt")
    error = refusal(folder)
    assert isinstance(error, CheckpointError)
    assert "carries code" in error.message
    assert not (tmp_path / "touched").exists()
