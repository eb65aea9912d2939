import numpy as np
import pytest

from prune2deploy.config import WorkloadPoint
from prune2deploy.errors import InputError
from prune2deploy.files import read_arrays, write_arrays
from prune2deploy.repository.manifest import REFERENCE_FILE
from prune2deploy.repository.references import REFERENCES, read_references, write_references
from prune2deploy.tasks.predict import torch_run


def points(case):
    lengths = (12, 20) if case.family == "bert" else (None, None)
    return [WorkloadPoint(batch=batch, seq_len=length) for batch, length in zip((1, 11), lengths, strict=True)]


def written(case, tmp_path):
    workload = [(point, case.task.workload_inputs(case.samples, point)) for point in points(case)]
    write_references(tmp_path, case.task, case.samples, torch_run(case.model, case.task), workload)
    return workload, read_references(tmp_path, len(workload))


def assert_said(case, inputs, outputs):
    said = torch_run(case.model, case.task)(inputs)
    assert outputs.keys() == said.keys()
    for name, wanted in said.items():
        np.testing.assert_allclose(outputs[name], wanted, rtol=1e-6)


def test_samples_come_back_with_what_the_model_makes_of_them(case, tmp_path):
    _, found = written(case, tmp_path)
    assert_said(case, found.inputs, found.outputs)
    assert len(found.outputs["logits"]) == min(REFERENCES, len(case.samples))


def test_raw_samples_are_those_that_the_inputs_were_made_of(case, tmp_path):
    _, found = written(case, tmp_path)
    assert found.raw == case.task.raw(REFERENCES)
    assert {len(column) for column in found.raw.values()} == {len(found.outputs["logits"])}


def test_every_point_of_the_workload_comes_with_its_outputs(case, tmp_path):
    workload, found = written(case, tmp_path)
    for (_, rows), wanted in zip(workload, found.workload_outputs, strict=True):
        first = {name: array[:REFERENCES] for name, array in rows.items()}
        assert_said(case, first, wanted)


def test_the_workload_is_timed_on_what_it_was_exported_with(case, tmp_path):
    # an engine is slower where tokens are masked: rows made up from padded samples would measure something else
    workload, found = written(case, tmp_path)
    for (point, wanted), (same, rows) in zip(workload, found.points([point for point, _ in workload]), strict=True):
        assert same == point
        assert rows.keys() == wanted.keys()
        for name, array in rows.items():
            assert array.shape == wanted[name].shape
            assert array.dtype == wanted[name].dtype
            np.testing.assert_array_equal(array[:REFERENCES], wanted[name][:REFERENCES])
        if case.family == "bert":
            assert rows["attention_mask"].all()


def test_other_numbers_of_points_are_refused(case, tmp_path):
    written(case, tmp_path)
    with pytest.raises(InputError, match="holds no workload"):
        read_references(tmp_path, 3)


def as_before(arrays):
    """The arrays of a package from before outputs had names."""
    return {name.removesuffix(".logits") if "output" in name.split(".")[0] else name: each for name, each in arrays.items()}


def test_packages_of_before_have_one_output_without_a_name(case, tmp_path):
    _, found = written(case, tmp_path)
    arrays = as_before(read_arrays(tmp_path / REFERENCE_FILE))
    assert {name for name in arrays if "output" in name} == {"output", "workload_output.0", "workload_output.1"}
    write_arrays(tmp_path / REFERENCE_FILE, arrays)
    before = read_references(tmp_path, 2)
    np.testing.assert_equal(before.outputs, found.outputs)
    np.testing.assert_equal(before.workload_outputs, found.workload_outputs)
    assert (before.raw, before.inputs.keys()) == (found.raw, found.inputs.keys())


def test_every_output_comes_back_by_its_name(case, tmp_path):
    run = torch_run(case.model, case.task)

    def both(inputs):
        return {"start.logits": run(inputs)["logits"], "end": -run(inputs)["logits"]}

    workload = [(point, case.task.workload_inputs(case.samples, point)) for point in points(case)]
    write_references(tmp_path, case.task, case.samples, both, workload)
    found = read_references(tmp_path, 2)
    np.testing.assert_equal(found.outputs, both(found.inputs))
    for outputs, inputs in zip(found.workload_outputs, found.workload, strict=True):
        np.testing.assert_equal(outputs, both(inputs))


@pytest.mark.parametrize("gone", ["output", "workload_output.1"])
@pytest.mark.parametrize("kept", [dict, as_before])
def test_references_without_outputs_are_damaged(gone, kept, case, tmp_path):
    written(case, tmp_path)
    arrays = kept(read_arrays(tmp_path / REFERENCE_FILE))
    left = {name: each for name, each in arrays.items() if name != gone and not name.startswith(f"{gone}.")}
    assert len(left) == len(arrays) - 1
    write_arrays(tmp_path / REFERENCE_FILE, left)
    with pytest.raises(InputError, match=f"holds no {'output' if gone == 'output' else 'workload'}"):
        read_references(tmp_path, 2)
