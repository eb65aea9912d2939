from dataclasses import replace
from itertools import pairwise

import pytest
import structures
import torch
from tiny import layers_of
from torch import nn

from prune2deploy.models.capture import (
    LayerCall,
    answering,
    call_of,
    first_call,
    first_of,
    in_layer,
    in_model,
    passing,
    resumed,
    visits_of,
)
from prune2deploy.models.family import blocks_of, roots_of
from prune2deploy.models.projection import output_projection


def states(model, inputs):
    """What each layer is given."""
    call = first_call(model, inputs)
    hidden = [call.hidden]
    with torch.no_grad():
        for layer in layers_of(model):
            hidden.append(call.run(layer, hidden[-1]))
    return hidden[:-1]


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def without_hooks(model):
    return not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.fixture
def inputs(case):
    return case.samples.batch([0, 1, 2]).tensors()


# calls


@pytest.fixture
def call():
    a, b, c, d, e = (torch.full((2,), float(value)) for value in range(5))
    kwargs = {"mask": {"full": c, "window": d}, "rotary": (e, a), "use_cache": False, "past": None}
    return LayerCall(torch.zeros(1), (a, [b, None], 7), kwargs)


def test_every_tensor_of_a_call_has_a_name_of_its_own(call):
    (a, (b, _), _), kwargs = call.args, call.kwargs
    found = {
        "hidden_states": call.hidden, "argument_0": a, "argument_1_0": b, "mask_full": kwargs["mask"]["full"],
        "mask_window": kwargs["mask"]["window"], "rotary_0": kwargs["rotary"][0], "rotary_1": kwargs["rotary"][1],
    }  # fmt: skip
    assert call.tensors().keys() == found.keys()
    assert all(tensor is found[name] for name, tensor in call.tensors().items())


def test_other_tensors_take_the_places_of_those_of_a_call_and_the_rest_stays(call):
    others = {name: tensor + 10 for name, tensor in call.tensors().items()}
    args, kwargs = call.with_tensors(others)
    assert (args[0] is others["argument_0"], args[1][0] is others["argument_1_0"]) == (True, True)
    assert (args[1][1], args[2], kwargs["use_cache"], kwargs["past"]) == (None, 7, False, None)
    assert kwargs["mask"] == {"full": others["mask_full"], "window": others["mask_window"]}
    assert kwargs["rotary"] == (others["rotary_0"], others["rotary_1"])
    assert call.args[0] is not args[0]


def test_calls_are_alike_where_all_but_the_hidden_states_is_the_very_same(call):
    assert call.like(LayerCall(torch.ones(5), call.args, call.kwargs))
    for kwargs in (
        {**call.kwargs, "use_cache": True}, {**call.kwargs, "rotary": call.kwargs["rotary"][::-1]},
        {**call.kwargs, "more": None}, {**call.kwargs, "past": torch.zeros(1)},
    ):  # fmt: skip
        assert not call.like(LayerCall(call.hidden, call.args, kwargs))


# visits


def test_a_forward_pass_visits_every_layer_with_what_the_one_before_left(case, inputs):
    visits = visits_of(case.model, inputs)
    assert [visit.root for visit in visits] == roots_of(blocks_of(case.model))
    for visit, hidden in zip(visits, states(case.model, inputs), strict=True):
        assert torch.equal(visit.call.hidden, hidden)
        with torch.no_grad():
            again = visit.call.run(case.model.get_submodule(visit.root), hidden)
        assert torch.equal(visit.output, again)
    assert all(later.call.hidden is visit.output for visit, later in pairwise(visits))
    assert without_hooks(case.model)


def test_a_layer_that_runs_again_is_visited_again():
    model = structures.model_of("albert")
    first, second = roots_of(blocks_of(model))
    visits = visits_of(model, {"input_ids": torch.tensor([[2, 7, 9, 3]])})
    assert [visit.root for visit in visits] == [first, first, second, second]
    assert len({visit.call.hidden.sum().item() for visit in visits}) == 4


def test_an_interrupted_pass_leaves_no_hooks(case, inputs):
    def fail(*args):
        raise KeyError

    handle = layers_of(case.model)[1].register_forward_hook(fail)
    with pytest.raises(KeyError):
        visits_of(case.model, inputs)
    handle.remove()
    assert without_hooks(case.model)


def test_a_call_is_known_before_its_layer_runs(case, inputs):
    roots = roots_of(blocks_of(case.model))
    wanted = [visit.call for visit in visits_of(case.model, inputs)]
    with torch.no_grad():
        for parameter in layers_of(case.model)[2].parameters():
            parameter.fill_(float("nan"))
    for root, call in zip(roots, wanted, strict=True):
        found = call_of(case.model, root, inputs)
        assert torch.equal(found.hidden, call.hidden)
        assert found.tensors().keys() == call.tensors().keys()
    assert without_hooks(case.model)


# answers


def test_a_module_that_answers_does_not_run(case, inputs):
    wanted, visits = logits(case.model, inputs), visits_of(case.model, inputs)
    last = layers_of(case.model)[-1]
    with torch.no_grad():
        for parameter in layers_of(case.model)[0].parameters():
            parameter.fill_(float("nan"))
    with answering([(last, visits[-1].returned)]):
        assert torch.equal(logits(case.model, inputs), wanted)
    assert logits(case.model, inputs).isnan().any()


def test_resumed_at_any_layer_a_model_says_the_same(case, inputs):
    wanted = logits(case.model, inputs)
    hidden = dict(zip(roots_of(blocks_of(case.model)), states(case.model, inputs), strict=True))
    for block in blocks_of(case.model):
        with resumed(case.model, block, hidden[block.root]):
            torch.testing.assert_close(logits(case.model, inputs), wanted)


def test_what_it_is_given_counts_and_what_is_skipped_does_not(case, inputs):
    wanted, hidden = logits(case.model, inputs), states(case.model, inputs)[2]
    last = blocks_of(case.model)[-1]
    with torch.no_grad():
        for weight in layers_of(case.model)[1].parameters():
            weight.mul_(3)
    with resumed(case.model, last, hidden):
        torch.testing.assert_close(logits(case.model, inputs), wanted)
    with resumed(case.model, last, hidden.flip(0)):
        assert (logits(case.model, inputs) - wanted).abs().max() > 1e-3


def test_afterwards_all_layers_run_again(case, inputs):
    wanted = logits(case.model, inputs)
    with pytest.raises(KeyError), resumed(case.model, blocks_of(case.model)[-1], torch.zeros(1)):
        raise KeyError
    assert torch.equal(logits(case.model, inputs), wanted)


# what passes


def test_what_passes_each_block_is_told_in_forward_order(case, inputs):
    blocks, seen = blocks_of(case.model), []

    def telling(name):
        return lambda block, module, hidden: seen.append((block, name, module, hidden.clone()))

    wanted = logits(case.model, inputs)
    with passing(in_model(case.model), blocks, telling("entry"), telling("given"), telling("output")):
        assert torch.equal(logits(case.model, inputs), wanted)
    assert [(block, name) for block, name, *_ in seen] == [
        (block, name) for block in blocks for name in ("entry", "given", "output")
    ]
    found = {(block, name): hidden for block, name, _, hidden in seen}
    for block in blocks:
        projection = output_projection(case.model, block)
        torch.testing.assert_close(projection(found[block, "given"]), found[block, "output"])
    for block, hidden in zip(blocks[::2], states(case.model, inputs), strict=True):
        assert torch.equal(found[block, "entry"], hidden)
    assert without_hooks(case.model)


def test_what_is_returned_takes_the_place_of_what_passes(case, inputs):
    block = blocks_of(case.model)[2]
    projection = output_projection(case.model, block)

    def nothing(block, module, hidden):
        return torch.zeros_like(hidden)

    with passing(in_model(case.model), [block], given=nothing):
        given = logits(case.model, inputs)
    with passing(in_model(case.model), [block], put_out=nothing):
        put_out = logits(case.model, inputs)
    with torch.no_grad():
        projection.weight.zero_()
        assert torch.equal(logits(case.model, inputs), given)
        projection.bias.zero_()
        assert torch.equal(logits(case.model, inputs), put_out)
    assert not torch.equal(given, put_out)


def test_what_a_module_is_given_by_name_is_told_and_replaced(case):
    class Named(nn.Module):
        def forward(self, hidden_states, factor):
            return factor * hidden_states

    layer, seen = nn.Sequential(Named()), []
    block = replace(blocks_of(case.model)[0], output="0", entry="")
    with passing(in_layer(layer), [block], entry=pytest.fail, given=lambda b, m, hidden: seen.append(hidden) or hidden + 1):
        assert layer[0](hidden_states=torch.ones(2), factor=3).tolist() == [6, 6]
        assert layer[0](torch.ones(2), factor=3).tolist() == [6, 6]
    assert [hidden.tolist() for hidden in seen] == [[1, 1], [1, 1]]


def test_blocks_of_a_layer_are_watched_in_a_copy_of_it(case, inputs):
    visit, blocks = visits_of(case.model, inputs)[1], blocks_of(case.model)[2:4]
    seen = {}
    with torch.no_grad(), passing(in_layer(layers_of(case.model)[1]), blocks, put_out=lambda b, m, h: seen.update({b: h})):
        output = first_of(layers_of(case.model)[1](visit.call.hidden, *visit.call.args, **visit.call.kwargs))
    assert list(seen) == blocks
    assert torch.equal(output, visit.output)
