"""Text or image in, label out: the entries around a model, without a server (tests/serving has one)."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from steady import answer, cli, files_in, refused, rewrite
from tiny import loaded_task
from transformers import AutoImageProcessor

from prune2deploy.errors import InputError, NotServableError
from prune2deploy.exporting import parts, witnessed
from prune2deploy.exporting.parts import REQUIREMENTS_FILE
from prune2deploy.exporting.parts import SERVED as SERVED_FILES
from prune2deploy.repository.check import check_repository
from prune2deploy.repository.versions import versions_of
from prune2deploy.serving.served import image, text
from prune2deploy.tasks.text_classification import TextClassification
from prune2deploy.tasks.texts import padded_lengths

pytest_plugins = ("made",)
SERVED = ["--serve", "python", "--with-tokenizer", "--name", "topics", "--json"]


@pytest.fixture
def served(work_pruned, clock):
    report = answer(cli("export", *SERVED))
    return work_pruned, report


def ensemble(repository):
    return repository / "topics_text" / "config.pbtxt"


def text_preprocessor(task, directory, workload=()):
    task.write_preprocessing(directory, workload)
    return text.Preprocessor(directory)


def test_lengths_are_few_and_end_at_the_limit():
    assert padded_lengths(128, []) == [8, 12, 16, 24, 32, 48, 64, 96, 128]
    assert padded_lengths(100, [50, 999]) == [8, 12, 16, 24, 32, 48, 50, 64, 96, 100]
    assert padded_lengths(5, []) == [5]


def test_texts_become_the_ids_of_the_models_own_tokenizer(bert_made, tmp_path):
    _, task = loaded_task(bert_made.project)
    preprocess = text_preprocessor(task, tmp_path, bert_made.project.workload)
    samples, raw = task.evaluation(), task.raw(1000)
    assert len(raw["TEXT"]) == len(samples)
    for index, value in enumerate(raw["TEXT"]):
        arrays, wanted = preprocess({"TEXT": [value]}), samples.batch([index]).inputs
        length = wanted["input_ids"].shape[1]
        assert list(arrays) == list(wanted)
        assert arrays["input_ids"].shape[1] in preprocess.lengths
        for name, array in arrays.items():
            assert array.dtype == np.int64
            np.testing.assert_array_equal(array[:, :length], wanted[name])
        assert not arrays["attention_mask"][:, length:].any()


def test_pairs_too_and_long_ones_are_cut_as_the_tokenizer_cuts_them(pairs_made, tmp_path):
    _, task = loaded_task(pairs_made.project)
    preprocess = text_preprocessor(task, tmp_path)
    first, second = "won lost " * 30, "the king of the city " * 20
    arrays = preprocess({"TEXT": [first.encode(), b"a"], "TEXT_PAIR": [second.encode(), b""]})
    # transformers' pipeline tokenises one pair at a time, and takes one without a second text for a single text
    for row, pair in enumerate([(first, second), ("a", "")]):
        wanted = task.tokenizer(*pair, truncation=True, max_length=task.limit)
        for name, array in arrays.items():
            length = len(wanted["input_ids"])
            assert array[row, :length].tolist() == wanted[name]
            assert not array[row, length:].any()


def test_what_is_no_utf8_is_said(bert_made, tmp_path):
    _, task = loaded_task(bert_made.project)
    with pytest.raises(ValueError, match="a text is not UTF-8"):
        text_preprocessor(task, tmp_path)({"TEXT": [b"\xff"]})


PROCESSORS = {
    "plain": {},
    "shortest edge and crop": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 20},
                               "crop_size": {"height": 16, "width": 16}, "do_center_crop": True, "resample": 3},
    "crop of odd size": {"image_processor_type": "DeiTImageProcessor", "size": {"height": 19, "width": 23},
                         "crop_size": {"height": 16, "width": 16}, "do_center_crop": True},
    "no normalisation": {"do_normalize": False},
    "no rescaling": {"do_rescale": False},
}  # fmt: skip


@pytest.mark.parametrize("which", PROCESSORS)
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_images_become_the_pixels_of_the_models_own_processor(which, mode, vit_made, vit_dir, tmp_path):
    model = shutil.copytree(vit_dir, tmp_path / "model")
    file = model / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **PROCESSORS[which]}))
    _, task = loaded_task(vit_made.project.model_copy(update={"model": str(model)}))
    task.write_preprocessing(tmp_path, [])
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 29, 3), np.uint8)).convert(mode)
    picture.save(tmp_path / "one.png")
    given = image.Preprocessor(tmp_path)({"IMAGE": [(tmp_path / "one.png").read_bytes()]})
    processor = AutoImageProcessor.from_pretrained(model, backend="pil")
    wanted = processor(Image.open(tmp_path / "one.png").convert("RGB"), return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(given["pixel_values"], wanted, rtol=1e-6, atol=1e-6)


def test_processing_that_is_not_ours_is_refused(vit_made, vit_dir, tmp_path):
    for changes, needle in (({"do_pad": True}, "does not do do_pad"), ({"size": {"longest_edge": 9}}, "does not resize to")):
        model = shutil.copytree(vit_dir, tmp_path / needle.split()[-1] / "model")
        file = model / "preprocessor_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        _, task = loaded_task(vit_made.project.model_copy(update={"model": str(model)}))
        with pytest.raises(InputError, match=needle):
            task.write_preprocessing(tmp_path, [])


# in an export


def test_export_writes_and_checks_the_steps(served):
    work, report = served
    checks = {check["name"]: check for check in report["checks"]}
    assert {"raw samples give the same", "preprocess step topics_preprocess", "labels step topics_labels",
            "ensemble step topics_text"} <= set(checks)  # fmt: skip
    assert all(check["passed"] for check in checks.values())
    repository = work / "model_repository"
    assert {entry.name: (entry.kind, entry.versions, entry.problems) for entry in check_repository(repository)} == {
        "topics": ("model", [1], []), "topics_preprocess": ("preprocess", [1], []),
        "topics_labels": ("labels", [1], []), "topics_text": ("ensemble", [1], []),
    }  # fmt: skip
    said = (repository / "topics_preprocess" / "1" / REQUIREMENTS_FILE).read_text().splitlines()
    assert said[0] == "numpy"
    assert said[1].startswith("tokenizers==")
    assert (repository / "topics" / "1" / REQUIREMENTS_FILE).read_text().startswith("numpy\nonnxruntime==")


def test_next_version_leaves_the_steps_alone(served):
    work, _ = served
    before = files_in(work / "model_repository")
    assert answer(cli("export", *SERVED))["version"] == 2
    after = files_in(work / "model_repository")
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in after if name not in before} == {"topics"}
    assert versions_of(work / "model_repository" / "topics_text") == [1]


def test_validate_sees_a_changed_tokenizer(served):
    work, _ = served
    file = work / "model_repository" / "topics_preprocess" / "1" / "tokenizer.json"
    rewrite(file, "##ing", "##ong")
    found = answer(cli("validate", work / "model_repository" / "topics", "--json"), code=1)
    failed = {check["name"]: check["detail"] for check in found["checks"] if not check["passed"]}
    assert failed == {"preprocess step topics_preprocess": "1/tokenizer.json was changed"}
    assert cli("repository", "check").exit_code == 1


def test_validate_says_what_nothing_vouches_for(served):
    cache = served[0] / "model_repository" / "topics" / "1" / "__pycache__"
    cache.mkdir()
    (cache / "model.cpython-311.pyc").write_bytes(b"")
    found = answer(cli("validate", "model_repository/topics", "--json"))
    assert "1 compiled python files that a server left in the entry" in found["not_checked"]


def test_validate_of_a_step_names_the_model(served):
    refused(cli("validate", "model_repository/topics_text"), "is the ensemble step of 'topics'; name that model's entry")


def test_a_step_that_was_made_otherwise_is_not_replaced(served):
    work, _ = served
    before = files_in(work / "model_repository")
    rewrite(work / "prune2deploy.toml", "[data]", "[data]\nmax_length = 20")
    needle = "topics_preprocess is there and does something else: export under another --name"
    refused(cli("export", *SERVED[:-1]), needle)
    # without its tokenizer either: the ensemble that is there would give the new version the wrong tokens
    refused(cli("export", "--serve", "python", "--name", "topics"), needle)
    assert files_in(work / "model_repository") == before


def test_a_wrong_step_stops_the_export(work_pruned, clock, monkeypatch):
    real = parts.SERVED
    broken = shutil.copytree(real, work_pruned / "served")
    rewrite(broken / "text.py", "encoding.ids,", "encoding.ids[::-1],")
    monkeypatch.setattr(parts, "SERVED", broken)
    refused(cli("export", *SERVED[:-1]), "raw samples give the same", code=1)
    assert not (work_pruned / "model_repository").exists()


def test_validate_from_inside_the_entry_sees_the_steps_too(served, monkeypatch):
    work, _ = served
    monkeypatch.chdir(work / "model_repository" / "topics")
    (work / "model_repository" / "topics_labels" / "1" / "labels.txt").write_text("broken")
    found = answer(cli("validate", ".", "--project", work / "prune2deploy.toml", "--json"), code=1)
    assert [check["name"] for check in found["checks"] if not check["passed"]] == ["labels step topics_labels"]


@pytest.mark.parametrize(
    ("gone", "kind"), [("topics_text", "ensemble"), ("topics_preprocess", "preprocess"), ("topics", "model")]
)
def test_entry_that_is_missing_is_told_by_the_others(gone, kind, served):
    shutil.rmtree(served[0] / "model_repository" / gone)
    found = answer(cli("repository", "check", "--json"), code=1)
    for entry in found["entries"]:
        if entry["name"] != "topics":
            assert f"the {kind} entry of 'topics' is missing" in entry["problems"]


ENSEMBLE = {
    "step gone": (lambda repository: shutil.rmtree(repository / "topics_labels"), "step 'topics_labels' is not in this"),
    "other tensor": (
        lambda repository: rewrite(ensemble(repository), 'key: "input_ids"', 'key: "ids"'), "gives no 'ids'"
    ),
    "other type": (
        lambda repository: rewrite(ensemble(repository), "TYPE_FP32", "TYPE_INT64"), "is int64 [3], and gets float32"
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", ENSEMBLE)
def test_ensemble_that_does_not_fit_its_steps_is_found(damage, served):
    change, wanted = ENSEMBLE[damage]
    change(served[0] / "model_repository")
    found = answer(cli("repository", "check", "--json"), code=1)
    [problems] = [entry["problems"] for entry in found["entries"] if entry["name"] == "topics_text"]
    assert any(wanted in problem for problem in problems), problems


def test_dense_model_stands_beside_the_pruned_one(served):
    _, pruned = served
    dense = answer(cli("export", "--dense", "--serve", "python", "--name", "topics_dense", "--json"))
    assert dense["verdict"] == "passed"
    assert dense["speedup"] == pytest.approx(1.0)
    assert dense["metric_pruned"] == dense["metric_dense"] == pruned["metric_dense"]
    assert dense["parameters_pruned"] == dense["parameters_dense"]
    assert not [check for check in dense["checks"] if check["name"].startswith("budget")]
    assert answer(cli("validate", "model_repository/topics_dense", "--json"))["passed"] is True
    refused(cli("export", "--dense", "--pick", "2x"), "give one of --pruned, --pick and --dense")


@pytest.mark.parametrize(
    ("options", "differ"),
    [(["--serve", "onnxruntime"], "backend (python, here onnxruntime)"), (["--batch", 64], "largest batch (8, here 64)")],
)
def test_another_way_of_serving_is_refused_before_any_work(served, options, differ, monkeypatch):
    asked = ["export", *SERVED[:-1], *options]
    monkeypatch.setattr("prune2deploy.exporting.stage.load_dense", lambda directory: pytest.fail("work was done"))
    refused(cli(*asked), f"model_repository/topics is served with another {differ}", "--name")
    refused(cli("run", "--speedup", 1.5, *SERVED[:-1], *options), f"is served with another {differ}")


@pytest.mark.parametrize(
    ("options", "needle"),
    [
        (["--serve", "tensorrt"], 'serving.backend = "tensorrt" does not run what is measured in onnxruntime'),
        (["--keep", "-1"], "serving.keep"),
    ],
)
def test_what_cannot_be_served_is_said(options, needle, work_pruned, clock):
    refused(cli("export", *options), needle)


def test_served_files_import_nothing_of_ours():
    for file in SERVED_FILES.glob("*_model.py"):
        assert "prune2deploy" not in file.read_text()


def test_package_that_does_not_answer_as_the_pipeline_is_not_exported(work_pruned, clock, monkeypatch):
    broken = shutil.copytree(parts.SERVED, work_pruned / "served")
    rewrite(broken / "text.py", 'text.decode("utf-8")', 'text.decode("utf-8").replace("日本", "king")')
    monkeypatch.setattr(parts, "SERVED", broken)
    told = "package answers as transformers' pipeline: other scripts: transformers' pipeline gives"
    refused(cli("export", *SERVED[:-1]), told, "what a server runs gives", code=1)
    assert not (work_pruned / "model_repository").exists()


def test_dense_model_that_is_read_otherwise_is_told_at_export(work_pruned, clock, monkeypatch):
    real = witnessed.torch_run

    def reversed_run(model, task):
        run = real(model, task)
        return lambda inputs: {name: output[:, ::-1] for name, output in run(inputs).items()}

    monkeypatch.setattr(witnessed, "torch_run", reversed_run)
    refused(cli("export"), "dense model as transformers' pipeline has it: validation.jsonl, line 1", code=1)


def test_tokenizer_that_no_server_has_is_refused_before_any_work(work_pruned, clock, monkeypatch):
    monkeypatch.setattr(TextClassification, "write_preprocessing", not_servable)
    monkeypatch.setattr("prune2deploy.exporting.stage.dense_onnx", lambda *args: pytest.fail("work was done"))
    monkeypatch.setattr("prune2deploy.closed_loop.ensure_table", lambda *args: pytest.fail("work was done"))
    for command in (["export"], ["run", "--speedup", 1.5]):
        refused(cli(*command, *SERVED[:-1]), "a slow one", "leave out --with-tokenizer")


def test_clients_that_tokenise_themselves_are_served_all_the_same(work_pruned, clock, monkeypatch):
    monkeypatch.setattr(TextClassification, "write_preprocessing", not_servable)
    report = answer(cli("export", "--json"))
    [detail] = [each["detail"] for each in report["checks"] if each["name"] == witnessed.PACKAGED]
    assert detail.endswith("over 8 raw samples")


def not_servable(task, directory, workload):
    raise NotServableError("this tokenizer is a slow one")
