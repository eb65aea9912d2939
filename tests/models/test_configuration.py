import json
import shutil

import numpy as np
import pytest
import structures
import torch
from transformers import AutoModelForSequenceClassification

from prune2deploy.errors import InputError
from prune2deploy.models.checkpoint import load_dense
from prune2deploy.models.configuration import load_config, worth_a_look
from prune2deploy.models.family import families, refuse_impossible
from prune2deploy.tasks.multi_label import MultiLabel
from prune2deploy.tasks.registry import task_for


def change(directory, **values):
    path = directory / "config.json"
    said = {**json.loads(path.read_text(encoding="utf-8")), **values}
    path.write_text(json.dumps({key: value for key, value in said.items() if value is not ...}), encoding="utf-8")
    return directory


def refusal(directory):
    with pytest.raises(InputError) as caught:
        load_config(directory)
    assert "\n" not in str(caught.value)
    assert "config.json" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "maps",
    [
        {"id2label": {"0": "art", "1": "sport", "2": "war"}, "label2id": {"art": "0", "sport": "1", "war": "2"}},
        {"id2label": {"0": "art", "1": "sport", "2": "war"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}},
        {"id2label": ..., "label2id": {"art": 0, "sport": 1, "war": 2}},
        {"label2id": ...},
    ],
)
def test_label_maps_come_out_inverse_of_each_other(dense_copy, maps):
    config = load_config(change(dense_copy, **maps))
    assert config.id2label == {0: "art", 1: "sport", 2: "war"}
    assert config.label2id == {"art": 0, "sport": 1, "war": 2}
    assert load_dense(dense_copy).config.num_labels == 3


def test_labels_that_nobody_wrote_down_must_fit_the_head(dense_copy):
    with pytest.raises(InputError) as caught:
        load_dense(change(dense_copy, id2label=..., label2id=...))
    assert "classifier.weight is 3 × 32 and should be 2 × 32" in str(caught.value)
    assert "name them all in id2label" in str(caught.value)
    assert load_dense(change(dense_copy, num_labels=3)).config.id2label[2] == "LABEL_2"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"problem_type": "regression"}, "problem_type is regression, and the model has 3 outputs"),
        ({"function_to_apply": "relu"}, "function_to_apply is relu"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Tanh"}, "what works is softmax, none or sig"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}}, "activation_fn is"),
    ],
)
def test_heads_that_are_neither_classes_nor_labels_are_refused_by_name(dense_copy, values, told):
    assert told in refusal(change(dense_copy, **values))


@pytest.mark.parametrize(
    "values",
    [
        {"problem_type": "multi_label_classification"}, {"function_to_apply": "sigmoid"},
        {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"},
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}},
    ],
)  # fmt: skip
def test_a_yes_or_no_for_each_label_is_another_task(dense_copy, vit_dir, tmp_path, values):
    assert task_for(load_config(change(dense_copy, **values))) is MultiLabel
    images = shutil.copytree(vit_dir, tmp_path / "images")
    assert "texts only" in refusal(change(images, **values))


@pytest.mark.parametrize(
    "values",
    [
        {"problem_type": "single_label_classification"}, {"function_to_apply": "softmax"},
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, {"sentence_transformers": {}},
        {"position_embedding_type": "absolute"}, {"pruned_heads": {}}, {"auto_map": {"AutoConfig": "config.Config"}},
    ],
)  # fmt: skip
def test_what_says_that_all_is_as_usual_is_no_obstacle(dense_copy, values):
    assert load_config(change(dense_copy, **values)).num_labels == 3


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"position_embedding_type": "relative_key"}, 'position_embedding_type is "relative_key"'),
        ({"position_embedding_type": "relative_key_query"}, "absolute positions only"),
        ({"pruned_heads": {"0": [1, 2]}}, "its heads are pruned already"),
        ({"per_layer_config": {"0": {"intermediate_size": 8}}}, "its layers differ"),
        ({"add_cross_attention": True, "is_decoder": True}, "another model's states"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "it is quantised"),
        ({"auto_map": {"AutoModelForSequenceClassification": "modeling.Mine"}}, "code of the model's own"),
    ],
)
def test_options_that_would_be_read_over_are_refused_by_name(dense_copy, values, told):
    assert told in refusal(change(dense_copy, **values))


SWITCHES = {
    "tuples": {"return_dict": False},
    "chunks": {"chunk_size_feed_forward": 4},
    "hidden states": {"output_hidden_states": True},
    "attentions": {"output_attentions": True},
    "cache": {"use_cache": True, "is_decoder": True},
    "all": {"return_dict": False, "chunk_size_feed_forward": 3, "output_hidden_states": True, "output_attentions": True},
    "old": {"torchscript": True, "use_bfloat16": True, "gradient_checkpointing": True, "output_past": True},
    "half": {"dtype": "float16"},
}


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_switches_change_neither_the_answer_nor_its_form(dense_copy, switches):
    ids = torch.arange(5, 17)[None]
    causal = {name: value for name, value in switches.items() if name == "is_decoder"}
    change(dense_copy, **causal)
    plain = AutoModelForSequenceClassification.from_pretrained(dense_copy, dtype=torch.float32).eval()
    model = load_dense(change(dense_copy, **switches))
    with torch.no_grad():
        wanted, got = plain(input_ids=ids).logits, model(input_ids=ids)
    assert set(got) == {"logits"}
    np.testing.assert_allclose(got.logits, wanted, rtol=0, atol=1e-5)


def test_options_that_nothing_reads_are_named(dense_copy):
    assert worth_a_look(dense_copy) == []
    change(dense_copy, finetuning_task="topics", norm_first=True, _num_labels=3)
    assert worth_a_look(dense_copy) == ["config.json has options that transformers does not read for this model: norm_first"]


@pytest.mark.parametrize("id2label", [..., {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}])
def test_names_that_the_pipeline_does_not_use_are_told(dense_copy, id2label):
    change(dense_copy, id2label=id2label)
    assert "transformers' pipeline answers LABEL_0" in worth_a_look(dense_copy)[0]
    assert load_config(dense_copy).id2label[0] == "art"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"num_hidden_layers": 0}, "no layers: there must be 1 or more"), ({"num_attention_heads": 0}, "0 heads"),
        ({"num_attention_heads": 5}, "equal shares of hidden_size"), ({"head_dim": 16}, "4 heads of 16"),
        ({"hidden_act": "selu2"}, "the activation 'selu2' is none that transformers knows"),
        ({"architectures": None}, "which class the model"),
        ({"architectures": []}, "such as BertForSequenceClassification"),
        ({"architectures": "BertLMHeadModel"}, "is a BertLMHeadModel"),
        ({"sentence_transformers": "4.0", "problem_type": "regression"}, "problem_type is regression"),
    ],
)  # fmt: skip
def test_what_no_model_can_be_is_told_by_name(dense_copy, values, told):
    assert told in refusal(change(dense_copy, **values))


def test_family_is_told_before_anything_else_is_read(dense_copy):
    told = f"models of type 'BERT' are not supported yet; supported are: {', '.join(sorted(families()))}$"
    with pytest.raises(InputError, match=told):
        load_config(change(dense_copy, model_type="BERT", hidden_size="many"))


@pytest.mark.parametrize(
    "values",
    [
        {"head_dim": 8}, {"sentence_transformers": "4.0"}, {"name_or_path": "x", "self": 1, "cls": 2}, {"pruned_heads": []},
        {"architectures": ["BertForPreTraining", "BertForSequenceClassification"]}, {"quantization_config": {}},
        {"architectures": "BertForSequenceClassification"}, {"position_embedding_type": "ABSOLUTE"},
    ],
)  # fmt: skip
def test_what_means_the_same_is_no_obstacle(dense_copy, values):
    change(dense_copy, **values)
    assert load_dense(dense_copy).config.architectures == ["BertForSequenceClassification"]


@pytest.mark.parametrize(
    ("text", "told"),
    [('{"a": 1,}', "cannot be read as JSON"), ("[" * 100_000, "cannot be read as JSON"), ("{}", "no readable `model_type`"),
     ("version https://git-lfs.github.com/spec/v1\noid x", "git lfs pull")],
)  # fmt: skip
def test_configuration_that_is_no_json_says_what_is_wrong(dense_copy, text, told):
    (dense_copy / "config.json").write_text(text, encoding="utf-8")
    assert told in refusal(dense_copy)


def test_model_that_lies_elsewhere_is_pointed_to(dense_copy):
    (dense_copy / "checkpoint-5").mkdir()
    (dense_copy / "config.json").rename(dense_copy / "checkpoint-5" / "config.json")
    assert "there is one in checkpoint-5/" in refusal(dense_copy)
    (dense_copy / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert "this is an adapter" in refusal(dense_copy)


@pytest.mark.parametrize("family", sorted(structures.CONFIGURATIONS))
def test_no_option_is_called_unread_that_transformers_reads(family, tmp_path):
    structures.save(family, tmp_path / "model")
    assert not [note for note in worth_a_look(tmp_path / "model") if "does not read" in note]


@pytest.mark.parametrize(
    ("family", "changes", "told"),
    [
        ("swin", {"num_heads": [2]}, "depths has 2 stages and num_heads has 1 stages: as many in both"),
        ("swin", {"depths": [2, -1]}, "depths is [2, -1]: a number for each stage, 1 or more"),
        ("convnext", {"hidden_sizes": [32]}, "depths has 2 stages and hidden_sizes has 1 stages"),
        ("roberta", {"intermediate_size": -4}, "layer 0 ffn has -4 filters of 1 columns: both must be 1 or more"),
        ("roberta", {"num_hidden_layers": -1}, "no layers: there must be 1 or more"),
        ("deberta", {"talking_head": True}, "talking_head mixes the heads of a layer"),
    ],
)
def test_odd_sizes_are_told_with_what_the_file_says(family, changes, told, tmp_path):
    structures.save(family, tmp_path / "model")
    assert told in refusal(change(tmp_path / "model", **changes))


def test_what_cannot_be_pruned_is_told_with_the_reason():
    with pytest.raises(InputError, match="takes the mean over all filters"):
        refuse_impossible("convnextv2")
