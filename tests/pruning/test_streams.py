import copy

import numpy as np
import pytest
import synthetic
import tiny
import torch
from tiny import layers_of

from prune2deploy.models.block import columns_of
from prune2deploy.models.family import blocks_of
from prune2deploy.models.projection import output_projection
from prune2deploy.models.surgery import mask_
from prune2deploy.pruning.recovery.refit import ridge
from prune2deploy.pruning.statistics import streams as streams_module
from prune2deploy.pruning.statistics.lengths import lengths_of
from prune2deploy.pruning.statistics.reconstruction_error import Reconstruction
from prune2deploy.pruning.statistics.streams import Streams

ENTRIES = {  # the module whose input the block's output is added to
    ("bert", "attention"): "attention.self.query", ("bert", "ffn"): "intermediate.dense",
    ("vit", "attention"): "layernorm_before", ("vit", "ffn"): "layernorm_after",
}  # fmt: skip


def watched(model, family, samples, index):
    """Of one sample alone, run through the whole model: (entry, input, output) of every block, float64 [tokens, ...]."""
    seen, handles = {}, []
    for block in blocks_of(model):
        entry = layers_of(model)[block.layer].get_submodule(ENTRIES[family, block.kind])
        consumer = output_projection(model, block)

        def entering(module, args, kwargs, block=block):
            seen[block, "entry"] = (args[0] if args else kwargs["hidden_states"])[0].double()

        def projected(module, args, output, block=block):
            seen[block, "input"], seen[block, "output"] = args[0][0].double(), output[0].double()

        handles += [entry.register_forward_pre_hook(entering, with_kwargs=True), consumer.register_forward_hook(projected)]
    with torch.no_grad():
        model(**samples.batch([index]).tensors())
    for handle in handles:
        handle.remove()
    return seen


def expected(case, pruned, block, kept, first_token_only=False):
    """The inputs and targets of `block`, all tokens of all samples below each other."""
    inputs, targets = [], []
    for index in range(len(case.samples)):
        dense, slim = (watched(model, case.family, case.samples, index) for model in (case.model, pruned))
        rows = slice(0, 1) if first_token_only else slice(None)
        inputs.append(slim[block, "input"][rows][:, columns_of(kept, block.unit_size)])
        targets.append((dense[block, "entry"] + dense[block, "output"] - slim[block, "entry"])[rows])
    return torch.cat(inputs).numpy(), torch.cat(targets).numpy()


def check(found, x, y):
    assert found.n == len(x)
    for got, wanted in ((found.x_sum, x.sum(0)), (found.y_sum, y.sum(0)), (found.xx, x.T @ x), (found.xy, x.T @ y)):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5 * max(1, np.abs(wanted).max(initial=0)))


def pruned_copy(case, name="ragged"):
    plan = tiny.plan_keeping(case.model, tiny.PLANS[name])
    pruned = copy.deepcopy(case.model)
    mask_(pruned, plan)
    return plan, pruned


@pytest.mark.parametrize("name", ["ragged", "ffn vanished"])
def test_statistics_are_those_of_whole_runs_sample_by_sample(case, name):
    plan, pruned = pruned_copy(case, name)
    streams = Streams(case.model, pruned, case.samples)
    for block in streams.blocks():
        kept = plan.units(block)
        check(streams.statistics(block, kept), *expected(case, pruned, block, kept))


def test_what_becomes_of_earlier_blocks_is_seen_by_later_ones(case):
    plan, pruned = pruned_copy(case)
    streams = Streams(case.model, pruned, case.samples)
    for block in streams.blocks():
        check(streams.statistics(block, plan.units(block)), *expected(case, pruned, block, plan.units(block)))
        with torch.no_grad():
            output_projection(pruned, block).weight.mul_(1.7 if block.kind == "attention" else 0.4)


def test_attention_that_the_walk_has_left_is_not_run_again(case):
    plan, pruned = pruned_copy(case)
    streams = Streams(case.model, pruned, case.samples)
    walk = streams.blocks()
    next(walk)
    ffn = next(walk)
    wanted = expected(case, pruned, ffn, plan.units(ffn))
    with torch.no_grad():
        output_projection(pruned, blocks_of(case.model)[0]).weight.mul_(100)
    check(streams.statistics(ffn, plan.units(ffn)), *wanted)
    small = copy.deepcopy(layers_of(pruned)[0])
    assert torch.equal(streams.through(small, ffn, 0)["entry"], streams.through(layers_of(pruned)[0], ffn, 0)["entry"])


def test_a_layer_entered_without_a_walk_runs_its_attention(case):
    plan, pruned = pruned_copy(case)
    attention, ffn, above = blocks_of(case.model)[:3]
    streams = Streams(case.model, pruned, case.samples)
    streams.enter(0)
    with torch.no_grad():
        output_projection(pruned, attention).weight.mul_(1.7)
    check(streams.statistics(ffn, plan.units(ffn)), *expected(case, pruned, ffn, plan.units(ffn)))
    with torch.no_grad():
        output_projection(pruned, ffn).weight.mul_(0.4)
    streams.enter(1)
    check(streams.statistics(above, plan.units(above)), *expected(case, pruned, above, plan.units(above)))


def test_tokens_count_by_the_weights_of_their_own_block(case):
    plan, pruned = pruned_copy(case)
    rng = np.random.default_rng(0)
    weights = {
        block: [rng.uniform(0.5, 2, size=(1, length)).astype(np.float32) for length in lengths_of(case.model, case.samples)]
        for block in blocks_of(case.model)
    }
    streams = Streams(case.model, pruned, case.samples, weights)
    for block in streams.blocks():
        x, y = expected(case, pruned, block, plan.units(block))
        weight = np.concatenate(weights[block], axis=1)[0]
        found = streams.statistics(block, plan.units(block))
        assert found.n == pytest.approx(weight.sum(), rel=1e-5)
        assert streams.tokens(block) == len(weight)
        for got, wanted in ((found.xx, (x.T * weight) @ x), (found.xy, (x.T * weight) @ y)):
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5 * max(1, np.abs(wanted).max()))


def test_the_first_token_alone(case):
    plan, pruned = pruned_copy(case)
    block = blocks_of(case.model)[1]
    streams = Streams(case.model, pruned, case.samples)
    streams.enter(0)
    found = streams.statistics(block, plan.units(block), first_token_only=True)
    assert found.n == len(case.samples)
    check(found, *expected(case, pruned, block, plan.units(block), first_token_only=True))


def test_with_nothing_pruned_the_target_is_the_projections_own_output(case):
    streams = Streams(case.model, copy.deepcopy(case.model), case.samples)
    for block in blocks_of(case.model):
        if block.kind == "attention":
            streams.enter(block.layer)
        found = streams.statistics(block, list(range(block.units)))
        projection = output_projection(case.model, block)
        weight, bias = projection.weight.double(), projection.bias.double()
        scale = float(found.xy.abs().max())
        torch.testing.assert_close(found.y_sum, weight @ found.x_sum + found.n * bias, rtol=1e-4, atol=1e-3)
        wanted = found.xx @ weight.T + torch.outer(found.x_sum, bias)
        torch.testing.assert_close(found.xy, wanted, rtol=1e-4, atol=1e-5 * scale)


def test_a_block_without_units_has_its_mean_target(case):
    streams = Streams(case.model, copy.deepcopy(case.model), case.samples)
    streams.enter(0)
    found = streams.statistics(blocks_of(case.model)[0], [])
    assert found.xx.shape == (0, 0)
    assert found.y_sum.abs().max() > 0
    assert found.n == lengths_of(case.model, case.samples).sum()


def test_models_are_left_without_hooks(case):
    plan, pruned = pruned_copy(case)
    inputs = case.samples.batch([0, 1]).tensors()
    before = [model(**inputs).logits for model in (case.model, pruned)]
    streams = Streams(case.model, pruned, case.samples)
    for block in blocks_of(case.model):
        if block.kind == "attention":
            streams.enter(block.layer)
        streams.statistics(block, plan.units(block))
    Reconstruction(case.model, case.samples).error(pruned)
    for model, logits in zip((case.model, pruned), before, strict=True):
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert torch.equal(model(**inputs).logits, logits)


def test_tokens_are_limited_by_leaving_samples_out(case, monkeypatch):
    block = blocks_of(case.model)[0]
    total = int(lengths_of(case.model, case.samples).sum())
    counts = []
    for limit in (total, total // 2, 1):
        monkeypatch.setattr(streams_module, "NUMBERS", limit * case.model.config.hidden_size)
        streams = Streams(case.model, copy.deepcopy(case.model), case.samples)
        streams.enter(0)
        counts.append(streams.statistics(block, [0]).n)
    assert counts[0] == total
    assert total // 4 < counts[1] < 0.75 * total
    assert 0 < counts[2] <= lengths_of(case.model, case.samples).max()


def test_lengths_are_counted_without_padding(case):
    lengths = lengths_of(case.model, case.samples)
    if case.family == "vit":
        assert lengths.tolist() == [17] * len(case.samples)  # 4 × 4 patches and the class token
    else:
        wanted = [len(case.samples.batch([index]).inputs["input_ids"][0]) for index in range(len(case.samples))]
        assert lengths.tolist() == wanted
        assert len(set(wanted)) > 3


def test_centred_statistics_are_covariances():
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, 1, size=(50, 4)), rng.normal(-2, 1, size=(50, 3))
    found, cross = synthetic.statistics(x, y).centred()
    both = np.cov(np.hstack([x, y]).T, bias=True)
    np.testing.assert_allclose(found, both[:4, :4], atol=1e-10)
    np.testing.assert_allclose(cross, both[:4, 4:], atol=1e-10)


def test_what_rounding_makes_of_constants_is_no_variance():
    x = np.tile(np.float32([0.1, 3.3, -7.7]), (5000, 1))
    y = np.random.default_rng(0).normal(size=(5000, 2)).astype(np.float32)
    statistics = synthetic.statistics(x, y)
    statistics.x_sum, statistics.y_sum = (torch.from_numpy(rows.sum(0, dtype=np.float64)) for rows in (x, y))
    found, cross = statistics.centred()
    assert not found.any()
    assert not cross.any()
    weight = torch.ones(2, 3, dtype=torch.float64)
    assert (ridge(statistics, weight) == weight).all(), "nothing to learn from: the weights stay"
