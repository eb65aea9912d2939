import copy

import pytest
import torch
from tiny import PLANS, layers_of, loaded_task, plan_keeping

from prune2deploy.models.family import blocks_of
from prune2deploy.models.projection import output_projection
from prune2deploy.models.surgery import mask_, running_shrunk, shrink_, silence_


def logits(case, model):
    with torch.no_grad():
        return torch.cat([model(**batch.tensors()).logits for _, batch in case.samples.batches(5)])


@pytest.fixture(params=PLANS.values(), ids=PLANS)
def plan(request, case):
    return plan_keeping(case.model, request.param)


def pruned(case, plan, how):
    model = copy.deepcopy(case.model)
    how(model, plan)
    return model


def test_masked_and_shrunk_models_say_the_same(case, plan):
    masked, shrunk = (logits(case, pruned(case, plan, how)) for how in (mask_, shrink_))
    torch.testing.assert_close(shrunk, masked, rtol=1e-5, atol=1e-5)
    # what was dropped mattered, so that agreement means something
    assert (masked - logits(case, case.model)).abs().max() > 1e-2


def test_while_it_runs_shrunk_a_model_says_what_the_shrunk_one_does(case, plan):
    before, model, shapes = logits(case, case.model), copy.deepcopy(case.model), []

    def look(module, args, output):
        shapes.append(output.shape)

    layers_of(model)[-1].register_forward_hook(look)
    with running_shrunk(model, plan):
        assert torch.equal(logits(case, model), logits(case, pruned(case, plan, shrink_)))
    assert len(shapes) == len(list(case.samples.batches(5)))  # a hook is called once a batch
    assert torch.equal(logits(case, model), before)


def test_shrunk_model_holds_only_the_kept_units(case, plan):
    shrunk = pruned(case, plan, shrink_)
    hidden = case.model.config.hidden_size
    for block in blocks_of(case.model):
        layer = layers_of(shrunk)[block.layer]
        size = plan.width(block) * block.unit_size
        left = sum(parameter.numel() for parameter in layers_of(case.model)[block.layer].parameters())
        assert sum(parameter.numel() for parameter in layer.parameters()) < left
        if size:
            assert layer.get_submodule(block.output).weight.shape == (hidden, size)
            assert all(layer.get_submodule(cut.path).weight.shape == (size, hidden) for cut in block.cuts)


def test_parameters_fall_by_exactly_what_the_dropped_units_held(case):
    plan = plan_keeping(case.model, PLANS["ragged"])
    hidden = case.model.config.hidden_size
    dropped = 0
    for block in blocks_of(case.model):
        per_unit = block.unit_size * (len(block.cuts) * (hidden + 1) + hidden)
        dropped += (block.units - plan.width(block)) * per_unit
    count = sum(parameter.numel() for parameter in case.model.parameters())
    assert sum(parameter.numel() for parameter in pruned(case, plan, shrink_).parameters()) == count - dropped


def test_model_without_blocks_has_no_matrix_left_in_its_layers(case):
    shrunk = pruned(case, plan_keeping(case.model, PLANS["all vanished"]), shrink_)
    assert all(parameter.ndim == 1 for layer in layers_of(shrunk) for parameter in layer.parameters())


def test_plan_that_keeps_everything_changes_nothing(case):
    plan = plan_keeping(case.model, lambda block: block.units)
    assert torch.equal(logits(case, pruned(case, plan, shrink_)), logits(case, case.model))
    assert torch.equal(logits(case, pruned(case, plan, mask_)), logits(case, case.model))


def test_mask_zeroes_the_dropped_columns_and_no_others(case):
    plan = plan_keeping(case.model, PLANS["ragged"])
    masked = pruned(case, plan, mask_)
    for block in blocks_of(case.model):
        before = output_projection(case.model, block).weight.unflatten(1, (block.units, block.unit_size))
        after = output_projection(masked, block).weight.unflatten(1, (block.units, block.unit_size))
        for unit in range(block.units):
            expected = before[:, unit] if unit in plan.units(block) else torch.zeros_like(before[:, unit])
            assert torch.equal(after[:, unit], expected)


def test_padding_does_not_leak_into_a_shrunk_model(bert_dir, text_data, make_project, tmp_path):
    model, task = loaded_task(make_project(bert_dir, text_data, "text-classification", tmp_path))
    samples = task.evaluation()
    shrink_(model, plan_keeping(model, PLANS["ragged"]))
    shortest = samples.order()[0]
    with torch.no_grad():
        alone = model(**samples.batch([shortest]).tensors()).logits
        padded = model(**samples.padded([shortest], 30).tensors()).logits
    assert samples.lengths[shortest] < 30
    torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["attention vanished", "ffn vanished", "all vanished"])
def test_a_silenced_block_adds_nothing(case, name):
    def silenced(model):
        plan = plan_keeping(model, PLANS[name])
        mask_(model, plan)
        silence_(model, plan)
        return model, plan

    model, plan = silenced(copy.deepcopy(case.model))
    other = copy.deepcopy(case.model)
    with torch.no_grad():
        for block in blocks_of(other):
            if not plan.units(block):
                output_projection(other, block).bias.add_(1)
    said = logits(case, model)
    assert torch.equal(logits(case, silenced(other)[0]), said)
    assert (said - logits(case, pruned(case, plan, mask_))).abs().max() > 1e-2
    shrink_(model, plan)
    torch.testing.assert_close(logits(case, model), said, rtol=1e-5, atol=1e-5)
