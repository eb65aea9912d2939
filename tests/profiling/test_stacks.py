import copy

import numpy as np
import onnxruntime
import pytest
import torch
from tiny import loaded_task, signature_of

from prune2deploy.models.layer_call import capture
from prune2deploy.models.plan import Plan
from prune2deploy.models.registry import blocks_of, layers_of
from prune2deploy.models.surgery import shrink_
from prune2deploy.profiling import stacks as stacks_module
from prune2deploy.profiling.stacks import Stacks

pytestmark = pytest.mark.usefixtures("shared_exports")

WIDTHS = [(2, 0), (4, 0), (0, 16), (0, 50), (3, 48), (4, 64), (0, 0)]
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


def test_stack_graphs_equal_the_layers_of_the_shrunk_model(case, tmp_path):
    stacks = Stacks(case.model, case.task, tmp_path)
    assert stacks.layers == len(layers_of(case.model))
    for attention, ffn in WIDTHS:
        path = stacks.path({"attention": attention, "ffn": ffn})
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        used = {entry.name for entry in session.get_inputs()}
        slim = copy.deepcopy(case.model)
        kept = {block: range(attention if block.kind == "attention" else ffn) for block in blocks_of(slim)}
        shrink_(slim, Plan.of(signature_of(slim), kept))
        for batch, length in SHAPES:
            inputs = stacks.inputs(batch, length)
            assert used <= set(inputs)
            outputs = session.run(None, {name: inputs[name] for name in used})[0]
            expected = last_layer_output(slim, case.task.timing_inputs(batch, length))
            np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=2e-5, err_msg=path.name)


def test_stack_that_is_there_is_not_made_again(case, tmp_path, monkeypatch):
    (tmp_path / "attention2-ffn0.onnx").write_bytes(b"made before the interruption")
    monkeypatch.setattr(stacks_module, "to_onnx", None)
    path = Stacks(case.model, case.task, tmp_path).path({"attention": 2, "ffn": 0})
    assert path.read_bytes() == b"made before the interruption"


def test_capture_leaves_the_model_as_it_was(case):
    tensors = tensors_of(case.task.synthetic_inputs(2, 7))
    call = capture(case.model, tensors)
    assert call.hidden.shape[0] == 2
    assert call.hidden.shape[-1] == case.model.config.hidden_size
    with torch.no_grad():
        assert case.model(**tensors).logits.shape == (2, 3)


def test_captured_call_leads_to_what_the_model_computes(case):
    inputs = case.task.synthetic_inputs(3, 9)
    call = capture(case.model, tensors_of(inputs))
    args, kwargs = call.with_tensors(call.tensors())
    hidden = call.hidden
    with torch.no_grad():
        for layer in layers_of(case.model):
            hidden = layer(hidden, *args, **kwargs)
    np.testing.assert_allclose(hidden.numpy(), last_layer_output(case.model, inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("batch", "length"), [(1, 32), (3, 8)])  # 32: the longest that the model takes
def test_stack_inputs_say_that_every_token_counts(bert_dir, text_data, make_project, tmp_path, batch, length):
    model, task = loaded_task(make_project(bert_dir, text_data, "text-classification", tmp_path))
    stacks = Stacks(model, task, tmp_path)
    inputs, traced = stacks.inputs(batch, length), stacks.call.tensors()
    assert set(inputs) == set(traced)
    [name] = set(inputs) - {"hidden_states"}
    assert traced[name].min() < 0, "the mask is part of the trace"
    assert inputs[name].shape == (batch, 1, length, length)
    assert inputs[name].dtype == traced[name].numpy().dtype
    assert (inputs[name] == 0).all()
    unmasked = capture(model, tensors_of(task.timing_inputs(batch, length))).tensors()
    assert set(unmasked) == {"hidden_states"}, "called so, the model leaves the mask out"
    np.testing.assert_array_equal(inputs["hidden_states"], unmasked["hidden_states"].numpy())


@pytest.mark.parametrize(("batch", "length"), [(1, 8), (4, 16)])
def test_stack_inputs_have_the_shape_that_is_asked_for(case, tmp_path, batch, length):
    hidden = Stacks(case.model, case.task, tmp_path).inputs(batch, length)["hidden_states"]
    tokens = length if case.family == "bert" else 17
    assert hidden.shape == (batch, tokens, 32)
