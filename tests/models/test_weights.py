import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification

from prune2deploy.errors import InputError
from prune2deploy.models.checkpoint import WEIGHTS_FILE, digest_of_model, load_dense


def refusal(directory):
    with pytest.raises(InputError) as caught:
        load_dense(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewritten(directory, change):
    weights = load_file(directory / WEIGHTS_FILE)
    save_file(change(weights), directory / WEIGHTS_FILE, metadata={"format": "pt"})
    return directory


def with_more(*names):
    return lambda weights: {**weights, **{name: torch.ones(2, 3) for name in names}}


def test_weight_that_nothing_uses_is_refused_with_its_name(dense_copy):
    message = refusal(rewritten(dense_copy, with_more("bert.encoder.layer.0.gate.weight")))
    assert "bert.encoder.layer.0.gate.weight in the weights, but not in the model" in message


def test_many_weights_are_named_in_part(dense_copy):
    message = refusal(rewritten(dense_copy, with_more(*(f"extra.{index}" for index in range(9)))))
    assert "extra.0, extra.1, extra.2 and 6 more" in message


@pytest.mark.parametrize(
    "names",
    [
        ("bert.embeddings.position_ids",),
        ("cls.predictions.bias", "cls.seq_relationship.weight"),
    ],
)
def test_weights_that_no_answer_depends_on_are_no_obstacle(dense_copy, names):
    assert load_dense(rewritten(dense_copy, with_more(*names))).config.num_labels == 3


@pytest.mark.parametrize(
    ("prefix", "told"),
    [
        ("module.", "DataParallel"), ("_orig_mod.", "torch.compile"), ("model.", "a training framework"),
        ("student.", "distillation"), ("base_model.model.", "PEFT"),
    ],
)  # fmt: skip
def test_prefix_of_a_wrapper_is_recognised(dense_copy, prefix, told):
    message = refusal(rewritten(dense_copy, lambda weights: {prefix + name: each for name, each in weights.items()}))
    assert f"the names begin with {prefix!r}" in message
    assert told in message


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["bert.encoder.layer.0.attention.self.query.lora_A.default.weight"], "an adapter that is not merged"),
        (["bert.encoder.layer.1.output.dense.weight_orig", "bert.encoder.layer.1.output.dense.weight_mask"], "prune.remove"),
        (["classifier.parametrizations.weight.original0"], "parametrisation"),
        (["bert.encoder.layer.0.output.dense.SCB"], "quantised"),
        (["bert.encoder.layer.0.attention.self.distance_embedding.weight"], "relative positions"),
    ],
)
def test_usual_causes_are_named(dense_copy, names, told):
    message = refusal(rewritten(dense_copy, with_more(*names)))
    assert told in message
    assert names[0] in message


def test_other_shapes_are_told(dense_copy):
    config = json.loads((dense_copy / "config.json").read_text(encoding="utf-8"))
    (dense_copy / "config.json").write_text(json.dumps({**config, "intermediate_size": 128}), encoding="utf-8")
    message = refusal(dense_copy)
    assert "bert.encoder.layer.0.intermediate.dense.bias is 64 and should be 128" in message
    (dense_copy / "config.json").write_text(json.dumps({**config, "vocab_size": 500}), encoding="utf-8")
    assert "vocab_size is another" in refusal(dense_copy)


def test_heads_that_are_pruned_already_are_recognised(dense_copy):
    def prune(weights):  # as `prune_heads` of transformers 4 did
        for which in ("query", "key", "value"):
            for kind in ("weight", "bias"):
                name = f"bert.encoder.layer.1.attention.self.{which}.{kind}"
                weights[name] = weights[name][:24].clone()
        name = "bert.encoder.layer.1.attention.output.dense.weight"
        weights[name] = weights[name][:, :24].clone()
        return weights

    message = refusal(rewritten(dense_copy, prune))
    assert "its heads are pruned already" in message
    assert "bert.encoder.layer.1.attention.output.dense.weight is 32 × 24 and should be 32 × 32" in message


def test_weights_of_the_encoder_that_are_missing_are_not_taken_for_an_unfinished_head(dense_copy):
    def drop(weights):
        del weights["bert.encoder.layer.2.output.dense.weight"]
        return weights

    assert "the file is not the whole model" in refusal(rewritten(dense_copy, drop))


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("adapter_config.json", "{}", "an adapter (PEFT)"),
        ("adapter_model.safetensors", "", "an adapter (PEFT)"),
        ("head_config.json", "{}", "a head of its own"),
        ("model_head.pkl", "", "never loaded"),
        ("head.safetensors", "", "head.safetensors lies beside model.safetensors and is not loaded"),
        ("model-00001-of-00002.safetensors", "", "is not loaded"),
        ("modules.json", '[{"type": "s.models.Transformer"}, {"type": "a.b.LayerNorm"}]', "module 'LayerNorm'"),
        ("modules.json", "{", "not readable"),
    ],
)
def test_files_that_change_the_model_are_not_left_out_in_silence(dense_copy, name, text, told):
    (dense_copy / name).write_text(text, encoding="utf-8")
    message = refusal(dense_copy)
    assert name in message
    assert told in message


@pytest.mark.parametrize("name", ["model.fp16.safetensors", "training_args.bin", "optimizer.pt", "pytorch_model.bin"])
def test_files_that_only_lie_beside_the_model_are_no_obstacle(dense_copy, name):
    (dense_copy / name).write_bytes(b"whatever")
    load_dense(dense_copy)


def test_two_weights_for_one_are_refused(dense_copy):
    name = "bert.encoder.layer.0.output.dense.weight"
    twice = {
        "without prefix": lambda weights: {**weights, name.removeprefix("bert."): weights[name] * 0},
        "prefix twice": lambda weights: {**weights, f"bert.{name}": weights[name] * 0},
        "old name of a norm": lambda weights: {
            **weights, "bert.embeddings.LayerNorm.gamma": weights["bert.embeddings.LayerNorm.weight"] * 2
        },
    }  # fmt: skip
    for which, change in twice.items():
        copy = shutil.copytree(dense_copy, dense_copy.parent / which)
        message = refusal(rewritten(copy, change))
        assert "so that some are not used" in message or "in the weights, but not in the model" in message


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers_are_refused(dense_copy, kind):
    name = "bert.encoder.layer.0.output.dense.weight"
    message = refusal(rewritten(dense_copy, lambda weights: {**weights, name: weights[name].to(kind)}))
    assert f"{name} (" in message
    assert "no floating point numbers" in message


def test_a_macs_own_files_are_none_of_the_model(dense_copy):
    before = digest_of_model(dense_copy)
    (dense_copy / "._model.safetensors").write_bytes(b"Mac OS X")
    load_dense(dense_copy)
    assert digest_of_model(dense_copy) == before


@pytest.mark.parametrize("place", ["s/model.safetensors", "../model.safetensors", "/model.safetensors"])
def test_weights_that_lie_elsewhere_are_refused_as_nothing_would_see_them_change(dense_copy, place):
    (dense_copy / WEIGHTS_FILE).unlink()
    index = {"weight_map": {"classifier.weight": place}}
    (dense_copy / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert "which lies elsewhere" in refusal(dense_copy)


@pytest.mark.parametrize("named", ["s/w.safetensors", 3])
def test_weights_that_the_configuration_names_lie_in_the_directory(dense_copy, named):
    config = json.loads((dense_copy / "config.json").read_text(encoding="utf-8"))
    (dense_copy / "config.json").write_text(json.dumps({**config, "transformers_weights": named}), encoding="utf-8")
    assert "transformers_weights is " in refusal(dense_copy)


def test_what_stands_in_place_of_weights_is_told(dense_copy):
    file = dense_copy / WEIGHTS_FILE
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", encoding="utf-8")
    assert "git lfs pull" in refusal(dense_copy)
    file.unlink()
    file.symlink_to("../blobs/0f3a")
    assert "links to ../blobs/0f3a, which is not there" in refusal(dense_copy)
    file.unlink()
    file.mkdir()
    assert "is a directory" in refusal(dense_copy)


def test_shards_are_read_by_their_index(dense_copy, tmp_path):
    wanted = load_dense(dense_copy).state_dict()
    model = BertForSequenceClassification.from_pretrained(dense_copy)
    shards = shutil.copytree(dense_copy, tmp_path / "shards", ignore=shutil.ignore_patterns("*.safetensors"))
    model.save_pretrained(shards, max_shard_size="20KB")
    files = sorted(shards.glob("*.safetensors"))
    assert len(files) > 2
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in load_dense(shards).state_dict().items())
    files[1].unlink()
    assert f"names {files[1].name}, which is not here" in refusal(shards)
    for text in ("{}", '{"weight_map": {}}', "["):
        (shards / "model.safetensors.index.json").write_text(text, encoding="utf-8")
        assert "no readable index" in refusal(shards)
