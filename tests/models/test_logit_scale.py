import copy

import pytest
import torch
from tiny import plan_keeping, provenance, randomise
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from prune2deploy.models.checkpoint import load, save_pruned
from prune2deploy.models.family import families, heads_of
from prune2deploy.models.logit_scale import factor_of, is_tied, scale_logits_, set_factor_
from prune2deploy.models.surgery import shrink_
from prune2deploy.pruning.methods.method import State, undoable

SIZES = {
    "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 16, "attn_implementation": "eager",
}  # fmt: skip
TIED = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True, bos_token_id=2, eos_token_id=3), "lm_head"),
    "bert": (BertForMaskedLM, BertConfig(**SIZES), "cls.predictions.decoder"),
}
IDS = torch.tensor([[2, 7, 9, 30, 3], [2, 19, 3, 5, 6]])


@pytest.fixture(params=TIED)
def tied(request, monkeypatch):
    kind, config, head = TIED[request.param]
    config.architectures = [kind.__name__]
    monkeypatch.setitem(families()[request.param].heads, kind.__name__, head)
    model = randomise(kind(config)).requires_grad_(False)
    assert is_tied(model, heads_of(model)[0])
    return model


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def weights_of(model):
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def test_logits_are_scaled_and_nothing_else(case):
    scaled = copy.deepcopy(case.model)
    scale_logits_(scaled, 2.5)
    with torch.no_grad():
        for _, batch in case.samples.batches(5):
            got, before = (model(**batch.tensors(), output_hidden_states=True) for model in (scaled, case.model))
            torch.testing.assert_close(got.logits, 2.5 * before.logits, rtol=1e-5, atol=1e-5)
            assert all(torch.equal(*pair) for pair in zip(got.hidden_states, before.hidden_states, strict=True))


def test_a_head_of_its_own_holds_the_factor_in_its_weights(case):
    scaled = copy.deepcopy(case.model)
    scale_logits_(scaled, 2.5)
    assert factor_of(scaled) == 1
    assert not heads_of(scaled)[0]._forward_hooks
    assert torch.equal(heads_of(scaled)[0].weight, 2.5 * heads_of(case.model)[0].weight)


def test_a_tied_head_scales_its_logits_and_leaves_all_weights(tied):
    said, weights = logits(tied), weights_of(tied)
    scale_logits_(tied, 5)
    scale_logits_(tied, 0.5)
    torch.testing.assert_close(logits(tied), 2.5 * said)
    assert factor_of(tied) == 2.5
    assert all(torch.equal(weight, weights[name]) for name, weight in tied.state_dict().items())


def test_a_copy_of_a_tied_model_has_a_factor_of_its_own(tied):
    said = logits(tied)
    scale_logits_(tied, 2.5)
    copied = copy.deepcopy(tied)
    torch.testing.assert_close(logits(copied), 2.5 * said)
    scale_logits_(copied, 2)
    torch.testing.assert_close(logits(copied), 5 * said)
    torch.testing.assert_close(logits(tied), 2.5 * said)


@pytest.mark.parametrize("before", [1.0, 0.7])
def test_undoing_a_step_brings_the_factor_of_a_tied_head_back(tied, before):
    set_factor_(tied, before)
    said = logits(tied)
    undo = undoable(State(None, tied))
    scale_logits_(tied, 2.5)
    with torch.no_grad():
        heads_of(tied)[0].weight.mul_(3)
    assert torch.equal(logits(undo().model), said)


def test_the_factor_of_a_tied_head_is_saved_and_loaded(tied, tmp_path):
    plan = plan_keeping(tied, lambda block: block.units // 2)
    shrink_(tied, plan)
    scale_logits_(tied, 2.5)
    save_pruned(tied, plan, provenance(), tmp_path, tmp_path)
    loaded = load(tmp_path)
    assert factor_of(loaded) == 2.5
    torch.testing.assert_close(logits(loaded), logits(tied))
