"""Pruning on a GPU, as far as a machine without one can tell."""

import copy
from importlib import import_module

import elsewhere
import numpy as np
import pytest
import synthetic
import torch

from prune2deploy.errors import InputError
from prune2deploy.memory import store
from prune2deploy.progress import Progress
from prune2deploy.pruning.compute import compute_device
from prune2deploy.pruning.judge import Stages
from prune2deploy.pruning.methods.method import State, undoable
from prune2deploy.pruning.methods.ours import OursMethod
from prune2deploy.pruning.methods.registry import METHODS, method_named
from prune2deploy.pruning.recovery import refit
from prune2deploy.pruning.statistics import removal
from prune2deploy.pruning.statistics.calibrate import Calibration
from prune2deploy.pruning.workbench import shrunk_equal


def pruned_by_ours(case, model):
    """The state that all steps of ours leave, and what the judge said of each."""
    costs = synthetic.flop_costs_of(case.model, case.samples)
    method = OursMethod(Calibration(model, case.task, case.samples, 0, Progress()))
    plan = method.search(costs, 0.5)
    state = State(plan, method.masked(plan))
    stages = Stages(model, case.task, case.samples, case.samples, Progress())
    stages.add("search", state, 0.0)
    for name, step in method.steps(costs, 0.5):
        state = step(state)
        stages.add(name, state, 0.0)
    return state, stages.results


def test_on_another_device_ours_does_all_its_work_there_and_comes_to_the_same(case, monkeypatch):
    monkeypatch.setattr(removal, "inverse_", torch.linalg.inv)  # rounding decides which of two like units goes
    monkeypatch.setattr(refit, "solve_", torch.linalg.solve)
    optimisers = import_module("torch.optim.optimizer")  # the pretended device has the fused ones, too
    monkeypatch.setattr(optimisers, "_get_fused_kernels_supported_devices", lambda: ["cpu", elsewhere.DEVICE.type])
    wanted, said = pruned_by_ours(case, case.model)
    with elsewhere.Device():
        found, said_there = pruned_by_ours(case, elsewhere.moved(copy.deepcopy(case.model)))
        assert found.model.device == elsewhere.DEVICE
        weights = elsewhere.brought_back(found.model)
    assert found.plan == wanted.plan
    for name, weight in wanted.model.state_dict().items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=1e-5)
    for there, here in zip(said_there, said, strict=True):
        assert there.divergence == pytest.approx(here.divergence, rel=1e-3)
        assert there.reconstruction_error == pytest.approx(here.reconstruction_error, rel=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that CUDA can use")
def test_on_a_real_gpu_too_and_twice_the_same(case):
    wanted, _ = pruned_by_ours(case, case.model)
    model = copy.deepcopy(case.model).to(compute_device("gpu", OursMethod))
    found, again = (pruned_by_ours(case, model)[0] for _ in range(2))
    assert found.plan == again.plan == wanted.plan
    for name, weight in found.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name])
        here = wanted.model.state_dict()[name]
        # single weights of a badly conditioned fit may be further off: rounding moves them along what inputs never show
        assert torch.linalg.vector_norm(weight.cpu() - here) <= 1e-2 * torch.linalg.vector_norm(here)


def test_what_was_pruned_there_is_shrunk_and_checked_here(case):
    wanted, _ = pruned_by_ours(case, case.model)
    with elsewhere.Device():
        there = State(wanted.plan, elsewhere.moved(copy.deepcopy(wanted.model)))
        shrunk, difference = shrunk_equal(there, case.task, case.samples)
    assert shrunk.device.type == "cpu"
    assert difference == shrunk_equal(wanted, case.task, case.samples)[1]


def test_a_step_is_undone_there(case):
    with elsewhere.Device():
        state = State(None, elsewhere.moved(copy.deepcopy(case.model)))
        undo = undoable(state)
        for parameter in state.model.parameters():
            parameter.mul_(2)
        weights = elsewhere.brought_back(undo().model)
    for name, weight in case.model.state_dict().items():
        assert torch.equal(weights[name], weight)


def test_only_what_would_take_main_memory_is_kept_in_files():
    assert hasattr(store(torch.device("cpu")), "folder")
    assert store(torch.device("cuda")) == []


def test_the_pretended_device_refuses_what_a_gpu_refuses():
    with elsewhere.Device():
        here, there = torch.ones(2), torch.ones(2, device=elsewhere.DEVICE)
        for wrong in (lambda: here + there, lambda: there @ here, lambda: torch.stack([there, here])):
            with pytest.raises((AssertionError, RuntimeError)):
                wrong()
        with pytest.raises(TypeError):
            there.numpy()
        np.testing.assert_array_equal((there * 2).cpu().numpy(), 2)
        assert there[torch.tensor([1])].device == elsewhere.DEVICE


def test_pruning_computes_on_the_cpu_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for method in METHODS.values():
        assert compute_device("cpu", method) == torch.device("cpu")


def test_a_gpu_that_is_not_there_is_said_in_a_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="PyTorch finds no GPU"):
        compute_device("gpu", OursMethod)


def test_methods_that_need_a_cpu_say_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in sorted(set(METHODS) - {"ours", "hawq"}):
        with pytest.raises(InputError, match=f"{name} computes on a CPU only"):
            compute_device("gpu", method_named(name))
