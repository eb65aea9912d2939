import re

import pytest
from pydantic import ValidationError
from transformers import (
    AlbertConfig,
    BertConfig,
    LlamaConfig,
    ModernBertConfig,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
)

from prune2deploy.models.family import family_of
from prune2deploy.models.signature import Signature, signature_of

MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
TINY_VIT = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
RESNET = {"hidden_sizes": [16, 24], "depths": [2, 2], "layer_type": "basic"}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
DIFFERENT = {
    "bert": (BertConfig, SMALL, [{"num_attention_heads": 8}, {"hidden_act": "relu"}, {"num_hidden_layers": 3}]),
    "albert": (AlbertConfig, SMALL, [
        {"num_hidden_groups": 2}, {"num_hidden_groups": 4}, {"inner_group_num": 2}, {"embedding_size": 16},
        {"num_hidden_layers": 3},
    ]),
    "modernbert": (ModernBertConfig, SMALL, [
        {"global_attn_every_n_layers": 2}, {"global_attn_every_n_layers": 1}, {"local_attention": 6},
    ]),
    "llama": (LlamaConfig, {**SMALL, "num_key_value_heads": 2}, [
        {"num_key_value_heads": 4}, {"num_key_value_heads": 1}, {"num_attention_heads": 2}, {"head_dim": 16},
    ]),
    "swin": (SwinConfig, SWIN, [{"depths": [1, 3]}, {"depths": [2, 1]}, {"window_size": 8}, {"num_heads": [4, 4]}]),
    "resnet": (ResNetConfig, {**RESNET, "image_size": [32, 32]}, [
        {"depths": [3, 1]}, {"depths": [1, 1]}, {"layer_type": "bottleneck"}, {"embedding_size": 8},
        {"image_size": [64, 64]}, {"hidden_sizes": [16, 32]},
    ]),
    "resnet of one curve": (ResNetConfig, {"hidden_sizes": [16], "depths": [1], "image_size": [32, 32]}, [
        {"embedding_size": 8}, {"image_size": [64, 64]},
    ]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (BertConfig(), "bert-l12-h768-a12x64-f3072-gelu-o2"),
        (BertConfig(**MINILM, hidden_act="relu", num_labels=7), "bert-l6-h384-a12x32-f1536-relu-o7"),
        (ViTConfig(num_labels=1000), "vit-l12-h768-a12x64-f3072-gelu-i224p16-o1000"),
        (ViTConfig(**TINY_VIT, image_size=96, patch_size=8, num_labels=10), "vit-l12-h192-a3x64-f768-gelu-i96p8-o10"),
    ],
)
def test_bert_and_vit_have_the_names_that_their_tables_have_had_from_the_start(config, name):
    assert signature_of(config).name == name


@pytest.mark.parametrize("family", DIFFERENT)
def test_models_of_different_latency_have_different_names(family):
    kind, sizes, changes = DIFFERENT[family]
    found = [signature_of(kind(**{**sizes, **change})) for change in ({}, *changes)]
    names = [signature.name for signature in found]
    assert all(one != other for index, one in enumerate(found) for other in found[:index])
    assert len(set(names)) == len(names), names
    assert all(re.fullmatch(r"[\w.+-]{1,120}", name) for name in names)


def test_a_name_depends_on_nothing_but_what_latency_does():
    kind, sizes, _ = DIFFERENT["modernbert"]
    assert signature_of(kind(**sizes)).name == signature_of(kind(**sizes, vocab_size=99, embedding_dropout=0.3)).name


@pytest.mark.parametrize("family", DIFFERENT)
def test_a_signature_knows_the_units_of_every_block_and_survives_json(family):
    kind, sizes, _ = DIFFERENT[family]
    config = kind(**sizes)
    signature = signature_of(config)
    for block in family_of(config).blocks(config):
        assert signature.units(block.key) == block.units
        assert signature.calls.get(block.key, 1) == block.calls
    assert Signature.model_validate_json(signature.model_dump_json()) == signature


VERSION_1 = {
    "family": "bert", "layers": 2, "hidden_size": 32, "heads": 4, "kv_heads": 4, "head_size": 8, "intermediate_size": 64,
    "activation": "gelu", "norm": "post", "outputs": 3,
}  # fmt: skip


def test_a_signature_of_version_1_is_that_of_today():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "num_labels": 3}
    assert Signature.model_validate(VERSION_1) == signature_of(BertConfig(**sizes))
    image = {**VERSION_1, "family": "vit", "norm": "pre", "input_shape": "i16p4"}
    assert Signature.model_validate(image) == signature_of(ViTConfig(**sizes, image_size=16, patch_size=4))


def test_a_signature_of_version_1_may_have_groups_of_heads():
    grouped = Signature.model_validate({**VERSION_1, "kv_heads": 2})
    assert (grouped.units("1.attention"), grouped.curves["attention"].unit_size) == (2, 16)


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": {"0.ffn": "ffn"}}, {"blocks": {"0.ffn": "ffn", "0.attention": "other"}}, {"calls": {"7.ffn": 2}},
        {"curves": {}}, {"curves": {"attention": {"kind": "attention", "units": 0, "unit_size": 8}}},
    ],
)  # fmt: skip
def test_a_signature_that_contradicts_itself_is_refused(change):
    values = Signature.model_validate(VERSION_1).model_dump()
    with pytest.raises(ValidationError):
        Signature.model_validate({**values, **change})
