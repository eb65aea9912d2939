import pytest

from prune2deploy.config import Project, WorkloadPoint, load_project, project_from, save_project
from prune2deploy.errors import InputError

MINIMAL = {"model": "models/topics", "task": "text-classification", "data": {"path": "data"}}
FULL = {
    **MINIMAL,
    "data": {
        "path": "data", "calibration": "train[:50%]", "evaluation": "train[50%:]", "max_length": 64,
        "columns": {"text": "body", "label": ""},
    },
    "workload": [{"batch": 1, "seq_len": 128, "weight": 3.0}, {"batch": 8, "seq_len": 32, "weight": 0.5}],
    "target": {"device": "cpu", "runtime": "onnxruntime", "precision": "fp32", "threads": 2},
    "calibration": {"samples": 128, "seed": 5},
}  # fmt: skip


def refusal(values, tmp_path):
    with pytest.raises(InputError) as caught:
        project_from(values, tmp_path, "here.toml")
    message = str(caught.value)
    assert message.startswith("here.toml: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("values", [MINIMAL, FULL], ids=["minimal", "full"])
def test_project_comes_back_as_it_was_saved(values, tmp_path):
    project = Project.model_validate({**values, "root": tmp_path})
    save_project(project, tmp_path / "prune2deploy.toml")
    assert load_project(tmp_path / "prune2deploy.toml") == project


def test_saved_project_does_not_name_the_place_it_was_made_in(tmp_path):
    save_project(Project.model_validate({**FULL, "root": tmp_path}), tmp_path / "prune2deploy.toml")
    assert str(tmp_path) not in (tmp_path / "prune2deploy.toml").read_text(encoding="utf-8")


def test_project_file_of_this_directory_is_the_default(tmp_path, monkeypatch):
    save_project(Project.model_validate({**FULL, "root": tmp_path}), tmp_path / "prune2deploy.toml")
    monkeypatch.chdir(tmp_path)
    assert load_project().calibration.seed == 5
    assert load_project().root == tmp_path


def test_saving_never_replaces_a_project_file(tmp_path):
    path = tmp_path / "prune2deploy.toml"
    path.write_text("# mine\n")
    with pytest.raises(InputError, match="already exists"):
        save_project(Project.model_validate({**MINIMAL, "root": tmp_path}), path)
    assert path.read_text() == "# mine\n"


def test_what_is_left_out_has_the_documented_defaults(tmp_path):
    project = project_from(MINIMAL, tmp_path, "here")
    assert (project.data.calibration, project.data.evaluation) == ("train", "validation")
    assert project.workload == [WorkloadPoint(batch=1)]
    assert (project.target.device, project.target.threads) == ("cpu", None)
    assert (project.calibration.samples, project.calibration.seed) == (2048, 0)


def test_paths_are_relative_to_the_project_file(tmp_path):
    project = project_from(MINIMAL, tmp_path, "here")
    assert project.resolve("models/topics") == tmp_path / "models" / "topics"
    assert project.resolve(tmp_path / "elsewhere") == tmp_path / "elsewhere"
    assert project.profiles.parent == project.state.parent == tmp_path


@pytest.mark.parametrize("text", ["model = ", "[data\n", "model = 'a'\nmodel = 'b'\n", "\x00", "{}"])
def test_malformed_toml_is_one_line(tmp_path, text):
    path = tmp_path / "prune2deploy.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_project(path)
    assert str(caught.value).startswith(f"{path}: cannot be read: ")
    assert "\n" not in str(caught.value)


def test_project_file_that_is_not_text(tmp_path):
    (tmp_path / "prune2deploy.toml").write_bytes(b"model = '\xff'")
    with pytest.raises(InputError, match="cannot be read"):
        load_project(tmp_path / "prune2deploy.toml")


def test_missing_project_file_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match="prune2deploy init"):
        load_project(tmp_path / "prune2deploy.toml")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"modle": "x"}, "modle: Extra inputs"),
        ({"model": "  "}, "model: Value error, empty"),
        ({"model": 3}, "model: "),
        ({"data": {}}, "data.path: Field required"),
        ({"data": {"path": "x", "column": {}}}, "data.column: Extra inputs"),
        ({"data": {"path": "x", "max_length": 1}}, "data.max_length: "),
        ({"workload": []}, "workload: "),
        ({"workload": [{"batch": 0}]}, "workload.0.batch: "),
        ({"workload": [{"batch": 2.5}]}, "workload.0.batch: "),
        ({"workload": [{"seq_len": 0}]}, "workload.0.seq_len: "),
        ({"workload": [{"weight": 0}]}, "workload.0.weight: "),
        ({"workload": [{"weight": float("nan")}]}, "workload.0.weight: "),
        ({"workload": [{"weight": float("inf")}]}, "workload.0.weight: "),
        ({"target": {"device": "tpu"}}, "target.device: "),
        ({"target": {"threads": 0}}, "target.threads: "),
        ({"target": {"cuda_graphs": True}}, "target: Value error, cuda_graphs is for device"),
        ({"target": {"cuda_graphs": True, "device": "gpu", "runtime": "tensorrt"}}, "target: Value error, cuda_graphs is"),
        ({"calibration": {"samples": 1}}, "calibration.samples: "),
        ({"calibration": {"seed": -1}}, "calibration.seed: "),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(change, problem, tmp_path):
    assert problem in refusal({**MINIMAL, **change}, tmp_path)


def test_one_shape_given_twice_is_refused(tmp_path):
    points = [
        {"batch": 1, "seq_len": 16},
        {"batch": 2, "seq_len": 16},
        {"batch": 1, "seq_len": 16, "weight": 2},
    ]
    assert "batch 1 × 16 is given twice" in refusal({**MINIMAL, "workload": points}, tmp_path)
