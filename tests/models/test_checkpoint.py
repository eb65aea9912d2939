import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import PLANS, plan_keeping, provenance, signature_of

from prune2deploy.errors import InputError
from prune2deploy.files import sha256_of
from prune2deploy.models.checkpoint import (
    PLAN_FILE,
    WEIGHTS_FILE,
    PrunedRecord,
    load,
    load_dense,
    read_pruned_record,
    resolve_model,
    save_pruned,
)
from prune2deploy.models.family import blocks_of, families
from prune2deploy.models.plan import Plan, units_of
from prune2deploy.models.surgery import shrink_


def shrunk_copy(model, plan):
    slim = copy.deepcopy(model)
    shrink_(slim, plan)
    return slim


def save(model, kept, source, directory):
    plan = plan_keeping(model, kept)
    slim = shrunk_copy(model, plan)
    directory.mkdir()
    save_pruned(slim, plan, provenance(), source, directory)
    return slim


@pytest.fixture
def pruned_dir(bert_dir, tmp_path):
    directory = tmp_path / "pruned"
    save(load_dense(bert_dir), PLANS["attention vanished"], bert_dir, directory)
    return directory


def refusal(function, *args):
    with pytest.raises(InputError) as caught:
        function(*args)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def change_json(path, **changes):
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, **changes}), encoding="utf-8")


def change_weights(directory, change):
    weights = load_file(directory / WEIGHTS_FILE)
    change(weights)
    save_file(weights, directory / WEIGHTS_FILE, metadata={"format": "pt"})


# round trip


@pytest.mark.parametrize("kept", PLANS.values(), ids=PLANS)
def test_saved_model_comes_back_bit_for_bit(case, kept, tmp_path):
    slim = save(case.model, kept, case.directory, tmp_path / "pruned")
    back = load(tmp_path / "pruned")
    assert type(back) is type(slim)
    assert not back.training
    state, expected = back.state_dict(), slim.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    inputs = case.samples.batch([0, 1, 2]).tensors()
    with torch.no_grad():
        assert torch.equal(back(**inputs).logits, slim(**inputs).logits)


def test_pruned_directory_has_what_deployment_needs(case, tmp_path):
    save(case.model, PLANS["ragged"], case.directory, tmp_path / "pruned")
    names = {path.name for path in (tmp_path / "pruned").iterdir()}
    processor = {"bert": {"tokenizer.json", "tokenizer_config.json"}, "vit": {"preprocessor_config.json"}}[
        case.family
    ]
    assert names == {PLAN_FILE, WEIGHTS_FILE, "config.json"} | processor
    for name in processor:
        assert (tmp_path / "pruned" / name).read_bytes() == (case.directory / name).read_bytes()
    assert (tmp_path / "pruned" / WEIGHTS_FILE).stat().st_size < (
        case.directory / WEIGHTS_FILE
    ).stat().st_size


def test_record_says_where_the_model_comes_from(pruned_dir):
    record = read_pruned_record(pruned_dir)
    assert record.provenance == provenance()
    assert record.weights_sha256 == sha256_of(pruned_dir / WEIGHTS_FILE)
    assert record.plan.kept["1.attention"] == ""


def test_loading_leaves_the_random_generator_alone(pruned_dir):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load(pruned_dir)
    assert torch.equal(torch.rand(3), expected)


def test_dense_model_comes_in_float32_ready_to_run(dense_copy):
    def halve(weights):
        weights.update({name: tensor.half() for name, tensor in weights.items()})

    change_weights(dense_copy, halve)
    change_json(dense_copy / "config.json", dtype="float16")
    model = load_dense(dense_copy)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    assert not model.training
    assert not any(tensor.requires_grad for tensor in model.parameters())


# bad dense models


def test_no_config(dense_copy):
    (dense_copy / "config.json").unlink()
    assert "no config.json here" in refusal(load_dense, dense_copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"hidden_size": 32}'])
def test_config_that_is_none(dense_copy, text):
    (dense_copy / "config.json").write_text(text, encoding="utf-8")
    assert "not a transformers configuration" in refusal(load_dense, dense_copy)


def test_unsupported_model_type_names_the_supported_ones(dense_copy):
    change_json(
        dense_copy / "config.json", model_type="unheard-of", architectures=["FunnelForSequenceClassification"]
    )
    message = refusal(load_dense, dense_copy)
    assert "'unheard-of'" in message
    assert f"supported are: {', '.join(sorted(families()))}" in message


def test_unknown_model_type(dense_copy):
    change_json(dense_copy / "config.json", model_type="no-such-thing")
    assert "no-such-thing" in refusal(load_dense, dense_copy)


def test_model_with_another_head_names_the_right_classes(dense_copy):
    change_json(dense_copy / "config.json", architectures=["BertForNextSentencePrediction"])
    message = refusal(load_dense, dense_copy)
    assert "BertForNextSentencePrediction" in message
    assert "BertForSequenceClassification" in message


def test_hidden_size_that_heads_do_not_divide(dense_copy):
    change_json(dense_copy / "config.json", num_attention_heads=5)
    assert str(dense_copy) in refusal(load_dense, dense_copy)


def test_pickled_weights_are_never_loaded(dense_copy):
    (dense_copy / WEIGHTS_FILE).unlink()
    (dense_copy / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    message = refusal(load_dense, dense_copy)
    assert "pytorch_model.bin is a pickle" in message
    assert "safetensors" in message


def test_no_weights_at_all(dense_copy):
    (dense_copy / WEIGHTS_FILE).unlink()
    assert refusal(load_dense, dense_copy).endswith("no safetensors weights here")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_weights(dense_copy, share):
    weights = dense_copy / WEIGHTS_FILE
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * share)])
    assert "the weights cannot be loaded" in refusal(load_dense, dense_copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers(dense_copy, value):
    name = "bert.encoder.layer.1.output.dense.weight"

    def change(weights):
        weights[name][3, 4] = value

    change_weights(dense_copy, change)
    assert f"{name} holds NaN or infinite values" in refusal(load_dense, dense_copy)


def test_weights_without_a_head_are_not_filled_with_random_ones(dense_copy):
    change_weights(
        dense_copy, lambda weights: [weights.pop(f"classifier.{name}") for name in ("weight", "bias")]
    )
    message = refusal(load_dense, dense_copy)
    assert "classifier.bias (2 missing in all)" in message
    assert "fine-tuned" in message


def test_weights_of_another_size(dense_copy):
    change_json(dense_copy / "config.json", intermediate_size=128)
    assert str(dense_copy) in refusal(load_dense, dense_copy)


def test_pruned_model_is_not_taken_for_a_dense_one(pruned_dir):
    assert "pruned already" in refusal(load_dense, pruned_dir)


# finding a model


def test_local_directories_are_found_from_the_project(dense_copy):
    assert resolve_model(dense_copy.name, dense_copy.parent) == dense_copy
    assert resolve_model(str(dense_copy), dense_copy) == dense_copy


@pytest.mark.parametrize("name", ["./nowhere", "a/b/c", "nobody/nothing"])
def test_model_that_is_nowhere(tmp_path, name):
    assert name.removeprefix("./") in refusal(resolve_model, name, tmp_path)


def test_model_that_is_a_file(dense_copy):
    assert "give the model's directory" in refusal(resolve_model, WEIGHTS_FILE, dense_copy)


# pruned models of version 1

VERSION_1 = Path(__file__).parent / "data"
INPUTS = {
    "bert": {
        "input_ids": torch.tensor([[2, 7, 9, 11, 3], [2, 19, 3, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    },
    "vit": {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)},
}


@pytest.mark.parametrize("family", INPUTS)
def test_a_model_that_version_1_saved_says_what_it_said_then(family):
    directory = VERSION_1 / f"{family}-version-1"
    model, wanted = load(directory), json.loads((directory / "logits.json").read_text(encoding="utf-8"))
    with torch.no_grad():
        torch.testing.assert_close(model(**INPUTS[family]).logits, torch.tensor(wanted), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", INPUTS)
def test_a_record_of_version_1_is_read_as_it_is_today(family):
    directory = VERSION_1 / f"{family}-version-1"
    written, read = json.loads((directory / PLAN_FILE).read_text(encoding="utf-8")), read_pruned_record(directory)
    assert (written["schema_version"], written["plan"]["schema_version"]) == (1, 1)
    assert (read.schema_version, read.plan.schema_version, read.logit_scale) == (2, 2, 1)
    model = load(directory)
    assert read.plan.signature == signature_of(model)
    units = {block: units_of(written["plan"]["kept"][block.key]) for block in blocks_of(model)}
    assert read.plan == Plan.of(signature_of(model), units)
    assert sorted(map(len, units.values())) == [0, 0, 0, 0, 1, 3, 7, 20]
    assert PrunedRecord.model_validate_json(read.model_dump_json()) == read


# bad pruned models


def test_no_such_pruned_directory(tmp_path):
    assert "prune2deploy prune" in refusal(load, tmp_path / "nowhere")


def test_dense_model_is_not_taken_for_a_pruned_one(bert_dir):
    assert "not a pruned model" in refusal(load, bert_dir)


def test_pruned_weights_that_were_replaced(pruned_dir):
    change_weights(pruned_dir, lambda weights: weights["classifier.bias"].add_(1))
    assert "its hash is not the one" in refusal(load, pruned_dir)


def test_pruned_weights_that_are_missing(pruned_dir):
    (pruned_dir / WEIGHTS_FILE).unlink()
    assert "model.safetensors is missing" in refusal(load, pruned_dir)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema_version": 2}', '{"schema_version": 3}'])
def test_corrupt_record(pruned_dir, text):
    (pruned_dir / PLAN_FILE).write_text(text, encoding="utf-8")
    message = refusal(load, pruned_dir)
    assert PLAN_FILE in message
    assert "not a valid pruned model record" in message


def test_record_with_a_damaged_plan_names_the_block(pruned_dir):
    path = pruned_dir / PLAN_FILE
    values = json.loads(path.read_text(encoding="utf-8"))
    values["plan"]["kept"]["2.ffn"] = "5-1"
    path.write_text(json.dumps(values), encoding="utf-8")
    assert "block 2.ffn: '5-1' is out of order" in refusal(load, pruned_dir)


@pytest.mark.parametrize("version", [0, 3])
def test_record_of_an_unknown_version(pruned_dir, version):
    change_json(pruned_dir / PLAN_FILE, schema_version=version)
    assert "schema_version" in refusal(load, pruned_dir)


def test_record_with_an_unknown_key(pruned_dir):
    change_json(pruned_dir / PLAN_FILE, surprise=1)
    assert "surprise" in refusal(load, pruned_dir)


def test_plan_for_another_model(pruned_dir):
    path = pruned_dir / PLAN_FILE
    values = json.loads(path.read_text(encoding="utf-8"))
    values["plan"]["signature"]["fixed"]["activation"] = "relu"
    path.write_text(json.dumps(values), encoding="utf-8")
    message = refusal(load, pruned_dir)
    assert "this plan is for bert-l3-h32-a4x8-f64-relu-o3" in message
    assert "the model is bert-l3-h32-a4x8-f64-gelu-o3" in message


def test_weights_that_the_plan_does_not_describe(pruned_dir):
    change_weights(pruned_dir, lambda weights: weights.pop("classifier.bias"))
    change_json(pruned_dir / PLAN_FILE, weights_sha256=sha256_of(pruned_dir / WEIGHTS_FILE))
    message = refusal(load, pruned_dir)
    assert "does not fit the plan" in message
    assert "classifier.bias" in message
    assert message.endswith("make both with `prune2deploy prune`")


def test_pruned_weights_with_nan(pruned_dir):
    change_weights(pruned_dir, lambda weights: weights["classifier.bias"].fill_(float("nan")))
    change_json(pruned_dir / PLAN_FILE, weights_sha256=sha256_of(pruned_dir / WEIGHTS_FILE))
    assert "classifier.bias holds NaN" in refusal(load, pruned_dir)
