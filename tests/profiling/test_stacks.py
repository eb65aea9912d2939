import copy

import numpy as np
import onnxruntime
import pytest
import torch
from tiny import layers_of, signature_of

from prune2deploy.models.capture import first_call
from prune2deploy.models.family import blocks_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.surgery import shrink_
from prune2deploy.profiling import stacks as stacks_module
from prune2deploy.profiling.stacks import OTHERWISE, Stacks

pytestmark = pytest.mark.usefixtures("shared_exports")

WIDTHS = {"attention": (0, 2, 3, 4), "ffn": (0, 16, 48, 50, 64)}
SHAPES = [(1, 3), (2, 7), (3, 11), (5, 2), (1, 32)]


def tensors_of(inputs):
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def last_layer_output(model, inputs):
    seen = []
    handle = layers_of(model)[-1].register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        with torch.no_grad():
            model(**tensors_of(inputs))
    finally:
        handle.remove()
    return (seen[0][0] if isinstance(seen[0], tuple) else seen[0]).numpy()


def thinned(model, curve, width):
    """The layers of `model` with nothing but this width of the blocks of `curve`."""
    slim = copy.deepcopy(model)
    kept = {block: range(width if block.curve == curve else 0) for block in blocks_of(slim)}
    shrink_(slim, Plan.of(signature_of(slim), kept))
    return layers_of(slim)


def otherwise(model):
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1 + OTHERWISE)
    return changed


@pytest.mark.parametrize("curve", WIDTHS)
def test_stack_graphs_equal_the_layers_of_the_shrunk_model_the_first_of_which_comes_again(case, tmp_path, curve):
    stacks = Stacks(case.model, case.task, curve, tmp_path)
    assert stacks.runs == len(layers_of(case.model)) + 1
    for width in WIDTHS[curve]:
        path = stacks.path(width)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        used = {entry.name for entry in session.get_inputs()}
        layers = [*thinned(case.model, curve, width), thinned(otherwise(case.model), curve, width)[0]]
        for batch, length in SHAPES:
            inputs = stacks.inputs(batch, length)
            assert used <= set(inputs)
            outputs = session.run(None, {name: inputs[name] for name in used})[0]
            call = first_call(case.model, tensors_of(case.task.timing_inputs(batch, length)))
            hidden = call.hidden
            with torch.no_grad():
                for layer in layers:
                    hidden = call.run(layer, hidden)
            np.testing.assert_allclose(outputs, hidden.numpy(), rtol=1e-5, atol=2e-5, err_msg=path.name)


def test_stack_that_is_there_is_not_made_again(case, tmp_path, monkeypatch):
    (tmp_path / "attention-2.onnx").write_bytes(b"made before the interruption")
    monkeypatch.setattr(stacks_module, "to_onnx", None)
    path = Stacks(case.model, case.task, "attention", tmp_path).path(2)
    assert path.read_bytes() == b"made before the interruption"


def test_capture_leaves_the_model_as_it_was(case):
    tensors = tensors_of(case.task.synthetic_inputs(2, 7))
    call = first_call(case.model, tensors)
    assert call.hidden.shape[0] == 2
    assert call.hidden.shape[-1] == case.model.config.hidden_size
    with torch.no_grad():
        assert case.model(**tensors).logits.shape == (2, 3)


def test_captured_call_leads_to_what_the_model_computes(case):
    inputs = case.task.synthetic_inputs(3, 9)
    call = first_call(case.model, tensors_of(inputs))
    args, kwargs = call.with_tensors(call.tensors())
    hidden = call.hidden
    with torch.no_grad():
        for layer in layers_of(case.model):
            hidden = layer(hidden, *args, **kwargs)
    np.testing.assert_allclose(hidden.numpy(), last_layer_output(case.model, inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("batch", "length"), [(1, 8), (4, 16)])
def test_stack_inputs_have_the_shape_that_is_asked_for(case, tmp_path, batch, length):
    hidden = Stacks(case.model, case.task, "ffn", tmp_path).inputs(batch, length)["hidden_states"]
    tokens = length if case.family == "bert" else 17
    assert hidden.shape == (batch, tokens, 32)
