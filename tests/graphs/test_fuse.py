import copy

import numpy as np
import pytest
import tiny

from prune2deploy.config import Target
from prune2deploy.graphs.fuse import fuse
from prune2deploy.graphs.onnx_model import export_onnx
from prune2deploy.models.surgery import shrink_
from prune2deploy.runtimes.ort import OnnxRuntime
from prune2deploy.tasks.predict import outputs_of, torch_run
from prune2deploy.validation.assess import onnx_check

pytestmark = pytest.mark.usefixtures("shared_exports")


@pytest.fixture
def ragged(case, tmp_path):
    model = copy.deepcopy(case.model)
    shrink_(model, tiny.plan_keeping(case.model, tiny.ragged))
    export_onnx(model, case.task, tmp_path / "plain.onnx")
    return model, tmp_path / "plain.onnx"


def test_fused_graph_of_a_ragged_model_is_valid_and_equal(ragged, case, tmp_path):
    model, plain = ragged
    assert fuse(plain, tmp_path / "fused.onnx")
    assert onnx_check(tmp_path / "fused.onnx").passed
    engine = OnnxRuntime(Target()).build(tmp_path / "fused.onnx")
    wanted, found = (outputs_of(run, case.task, case.samples) for run in (torch_run(model, case.task), engine.run))
    np.testing.assert_allclose(found["logits"].values, wanted["logits"].values, rtol=1e-4, atol=1e-4)


def test_fused_graph_takes_every_input_that_the_plain_one_takes(case, tmp_path):
    model = copy.deepcopy(case.model)
    shrink_(model, tiny.plan_keeping(case.model, lambda block: 0 if block.kind == "attention" else 2))
    export_onnx(model, case.task, tmp_path / "plain.onnx")
    assert fuse(tmp_path / "plain.onnx", tmp_path / "fused.onnx")
    engines = [OnnxRuntime(Target()).build(tmp_path / f"{name}.onnx") for name in ("plain", "fused")]
    names = [[tensor.name for tensor in engine.session.get_inputs()] for engine in engines]
    assert names[0] == names[1] == list(case.task.dynamic_axes())
    plain, fused = (outputs_of(engine.run, case.task, case.samples)["logits"].values for engine in engines)
    np.testing.assert_allclose(fused, plain, rtol=1e-4, atol=1e-4)


def test_damaged_graph_fails_the_check_in_one_line(ragged):
    _, plain = ragged
    plain.write_bytes(plain.read_bytes()[:-1000])
    check = onnx_check(plain)
    assert not check.passed
    assert check.detail
    assert "\n" not in check.detail
