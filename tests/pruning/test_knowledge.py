import copy

import numpy as np
import pytest
import tiny
import torch
from tiny import layers_of

from prune2deploy.models.capture import first_call
from prune2deploy.models.family import blocks_of
from prune2deploy.models.projection import output_projection
from prune2deploy.models.surgery import mask_
from prune2deploy.pruning.methods.knowledge import HEADS, PREDICTIVE, REPRESENTATIONAL, TEMPERATURE, Watched, knowledge

SIZE = 5  # of a batch


def batches_of(case):
    starts = range(0, len(case.samples), SIZE)
    return [list(range(len(case.samples)))[start : start + SIZE] for start in starts]


def found_by_knowledge(case, model, blocks):
    watched, hidden = [], []
    for indices in batches_of(case):
        batch = case.samples.batch(indices)
        with torch.no_grad():
            watched.append(Watched(batch, case.task.said(case.model, batch.tensors())))
            call = first_call(model, batch.tensors())
            for layer in layers_of(model)[: blocks[0].layer]:
                call.hidden = call.run(layer, call.hidden)
        hidden.append(call.hidden)
    return knowledge(case.task, model, watched, hidden, blocks)


def exact(inputs):
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def expected(case, model, blocks):
    """In float64, through scaled columns of the weights, and inputs watched sample by sample."""
    dense, model = copy.deepcopy(case.model).double(), copy.deepcopy(model).double()
    names = {id(module): name for name, module in model.named_modules()}
    predictive = dict.fromkeys(blocks, 0.0)
    for indices in batches_of(case):
        inputs = exact(case.samples.batch(indices).tensors())
        masks = {block: torch.ones(output_projection(model, block).in_features, dtype=torch.float64, requires_grad=True)
                 for block in blocks}  # fmt: skip
        scaled = {names[id(output_projection(model, b))] + ".weight": output_projection(model, b).weight * mask
                  for b, mask in masks.items()}  # fmt: skip
        logits = torch.func.functional_call(model, scaled, (), inputs).logits / TEMPERATURE
        wanted = (dense(**inputs).logits / TEMPERATURE).detach()
        loss = TEMPERATURE**2 * torch.nn.functional.kl_div(
            logits.log_softmax(-1), wanted.log_softmax(-1), reduction="batchmean", log_target=True
        )
        for block, gradient in zip(blocks, torch.autograd.grad(loss, list(masks.values())), strict=True):
            predictive[block] = predictive[block] + 0.5 * gradient.square().numpy()
    scores = {}
    for block in blocks:
        seen = []
        projection = output_projection(model, block)
        handle = projection.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0][0]))
        for index in range(len(case.samples)):
            model(**exact(case.samples.batch([index]).tensors()))
        handle.remove()
        x = torch.cat(seen).numpy()
        columns = PREDICTIVE * predictive[block] / len(case.samples)
        columns = columns + REPRESENTATIONAL * np.square(x).mean(0) * np.square(projection.weight.numpy()).mean(0)
        units = np.array([columns[u * block.unit_size : (u + 1) * block.unit_size].mean() for u in range(block.units)])
        scores[block] = units * (HEADS if block.kind == "attention" else 1)
    return scores


@pytest.mark.parametrize("first", [2, 3, 5])
def test_scores_are_those_of_masks_on_the_model_as_it_is(case, first):
    blocks = blocks_of(case.model)
    model = copy.deepcopy(case.model)
    mask_(model, tiny.plan_keeping(model, lambda b: tiny.ragged(b) if b in blocks[:first] else b.units))
    found, wanted = found_by_knowledge(case, model, blocks[first:]), expected(case, model, blocks[first:])
    assert list(found) == blocks[first:]
    for block, scores in found.items():
        np.testing.assert_allclose(scores, wanted[block], rtol=1e-3, atol=1e-5 * wanted[block].max())


def test_on_the_dense_model_the_representation_alone_counts(case, monkeypatch):
    import prune2deploy.pruning.methods.knowledge as module

    blocks = blocks_of(case.model)
    both = found_by_knowledge(case, case.model, blocks)
    monkeypatch.setattr(module, "PREDICTIVE", 0.0)
    for block, scores in found_by_knowledge(case, case.model, blocks).items():
        np.testing.assert_allclose(both[block], scores, rtol=1e-5)


def test_the_model_is_left_without_hooks(case):
    found_by_knowledge(case, case.model, blocks_of(case.model)[2:])
    assert not any(module._forward_pre_hooks or "forward" in vars(module) for module in case.model.modules())
