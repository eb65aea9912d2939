import numpy as np
import pytest

from prune2deploy.config import WorkloadPoint
from prune2deploy.errors import InputError
from prune2deploy.repository.references import REFERENCES, read_references, write_references
from prune2deploy.tasks.predict import torch_run


def points(case):
    lengths = (12, 20) if case.family == "bert" else (None, None)
    return [WorkloadPoint(batch=batch, seq_len=length) for batch, length in zip((1, 11), lengths, strict=True)]


def written(case, tmp_path):
    workload = [(point, case.task.workload_inputs(case.samples, point)) for point in points(case)]
    write_references(tmp_path, case.task, case.samples, torch_run(case.model), workload)
    return workload, read_references(tmp_path, len(workload))


def test_samples_come_back_with_what_the_model_makes_of_them(case, tmp_path):
    _, found = written(case, tmp_path)
    np.testing.assert_allclose(torch_run(case.model)(found.inputs), found.outputs, rtol=1e-6)
    assert len(found.outputs) == min(REFERENCES, len(case.samples))


def test_raw_samples_are_those_that_the_inputs_were_made_of(case, tmp_path):
    _, found = written(case, tmp_path)
    assert found.raw == case.task.raw(REFERENCES)
    assert {len(column) for column in found.raw.values()} == {len(found.outputs)}


def test_every_point_of_the_workload_comes_with_its_outputs(case, tmp_path):
    workload, found = written(case, tmp_path)
    for (_, rows), wanted in zip(workload, found.workload_outputs, strict=True):
        first = {name: array[:REFERENCES] for name, array in rows.items()}
        np.testing.assert_allclose(torch_run(case.model)(first), wanted, rtol=1e-6)


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
