"""Encoders without a file: what is found in them, and what is refused with its reason."""

import json

import pytest
import tiny
import torch
import transformers

from prune2deploy.errors import InputError
from prune2deploy.models import generic
from prune2deploy.models.checkpoint import load, load_dense, save_pruned
from prune2deploy.models.configuration import load_config
from prune2deploy.models.family import blocks_of, family_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.signature import signature_of
from prune2deploy.models.surgery import mask_, shrunk

SIZES = {
    "vocab_size": len(tiny.SPECIAL) + len(tiny.WORDS) + len(tiny.PIECES), "hidden_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 34, "pad_token_id": 0, "num_labels": 3,
}  # fmt: skip
# others that look like those that there are files of, by the class of their model and of their configuration
LIKE = {
    "ErnieForSequenceClassification": ("ErnieConfig", {}),
    "MegatronBertForTokenClassification": ("MegatronBertConfig", {}),
    "RemBertForQuestionAnswering": ("RemBertConfig", {"input_embedding_size": 16, "output_embedding_size": 20}),
    "RoFormerForSequenceClassification": ("RoFormerConfig", {"embedding_size": 16}),
    "Data2VecTextForSequenceClassification": ("Data2VecTextConfig", {}),
    "ErnieModel": ("ErnieConfig", {}),
    "SplinterModel": ("SplinterConfig", {}),
}


def made(name, directory):
    """A random model of that class in `directory`."""
    config_class, more = LIKE[name]
    config = getattr(transformers, config_class)(**SIZES, **more)
    if name.endswith("QuestionAnswering"):
        config.num_labels = 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tiny.randomise(getattr(transformers, name)(config), 0.1)
    model.save_pretrained(directory)
    tiny.save_tokenizer(directory, ["input_ids", "attention_mask"])
    return directory


def said(model):
    inputs = {"input_ids": torch.arange(2, 22).reshape(2, 10), "attention_mask": torch.ones(2, 10, dtype=torch.int64)}
    with torch.no_grad():
        returned = model(**inputs)
    return torch.cat([returned[name].flatten() for name in generic.OUTPUTS if returned.get(name) is not None])


@pytest.mark.parametrize("name", list(LIKE))
def test_what_is_found_shrinks_exactly_and_comes_back(name, tmp_path):
    model = load_dense(made(name, tmp_path / "model"))
    blocks = blocks_of(model)
    assert {block.kind for block in blocks} == {"attention", "ffn"}
    assert [block.units for block in blocks] == [4, 48] * 3
    for share in (3, 0):
        kept = {
            block: [] if not share and number % 2 else list(range(1, block.units, 2)) for number, block in enumerate(blocks)
        }
        plan = Plan.of(signature_of(model.config), kept)
        masked = load_dense(tmp_path / "model")
        mask_(masked, plan)
        wanted, slim = said(masked), shrunk(model, plan)
        torch.testing.assert_close(said(slim), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
        assert not torch.allclose(wanted, said(model))
        directory = tmp_path / f"pruned{share}"
        directory.mkdir()
        save_pruned(slim, plan, tiny.provenance(), tmp_path / "model", directory)
        torch.testing.assert_close(said(load(directory)), said(slim))


def test_it_is_found_once_a_process(tmp_path, monkeypatch):
    directory = made("ErnieForSequenceClassification", tmp_path / "model")
    family = family_of(load_config(directory))
    monkeypatch.setattr(generic, "_find", None)
    assert family_of(load_config(directory)) is family


@pytest.mark.parametrize(
    ("model_class", "config_class", "sizes", "told"),
    [
        ("AltCLIPModel", "AltCLIPConfig", {"text_config": SIZES, "vision_config": {
            "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 16,
            "patch_size": 8,
        }}, "it has 2 lists of layers, and not one"),
        ("BartForSequenceClassification", "BartConfig",
         {"vocab_size": 60, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1}, "it has a decoder"),
        ("FNetForSequenceClassification", "FNetConfig", {**SIZES, "use_tpu_fourier_optimizations": False}, ""),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_reason(model_class, config_class, sizes, told, tmp_path):
    config = getattr(transformers, config_class)(**sizes)
    config.architectures = [model_class]
    config.save_pretrained(tmp_path)
    if not told:  # it has an FFN, and no heads: that much can be cut
        assert {block.kind for block in family_of(load_config(tmp_path)).blocks(None)} == {"ffn"}
        return
    with pytest.raises(InputError) as caught:
        load_config(tmp_path)
    assert told in str(caught.value)
    assert "supported are: albert" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_that_is_none_of_a_task_is_refused(tmp_path):
    directory = made("ErnieForSequenceClassification", tmp_path / "model")
    values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    other = json.dumps({**values, "architectures": ["ErnieForPreTraining"]})
    (directory / "config.json").write_text(other, encoding="utf-8")
    with pytest.raises(InputError, match="none of the classes that work"):
        load_config(directory)


def test_what_is_not_exact_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(generic, "FOUND", {})
    monkeypatch.setattr(generic, "_difference", lambda model: "outputs are 0.5 apart")
    with pytest.raises(InputError, match=r"is not exact \(outputs are 0.5 apart\)"):
        load_config(made("ErnieForSequenceClassification", tmp_path / "model"))
    assert not generic.FOUND
