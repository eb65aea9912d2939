import json
import shutil
import sys

import pytest
import tiny
from steady import answer, cli, files_in, refused
from transformers import pipeline

import prune2deploy
from prune2deploy.config import load_project
from prune2deploy.models.checkpoint import PLAN_FILE
from prune2deploy.models.family import families
from prune2deploy.serving.served import text as served_text
from prune2deploy.tasks import texts

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOML = "prune2deploy.toml"
SHORT = ("--seq-len", 16)  # the tiny BERT takes 32 tokens, and the default workload has 128


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    root = tmp_path / "here"
    root.mkdir()
    monkeypatch.chdir(root)
    return root


def written(here):
    return tomllib.loads((here / TOML).read_text(encoding="utf-8"))


def refuses(here, result, *needles):
    message = refused(result, *needles)
    assert result.stderr == message + "\n"
    assert files_in(here) == {}


# what it writes


def test_single_texts(here, bert_dir, text_data):
    result = cli("init", bert_dir, "--data", text_data, *SHORT)
    assert result.exit_code == 0, result.stderr
    assert written(here) == {
        "model": str(bert_dir),
        "task": "text-classification",
        "data": {
            "path": str(text_data), "calibration": "train", "evaluation": "validation",
            "columns": {"text": "text", "label": "label"},
        },
        "workload": [{"batch": 1, "seq_len": 16, "weight": 1.0}],
        "target": {"device": "cpu", "runtime": "onnxruntime", "precision": "fp32", "cuda_graphs": False},
        "calibration": {"samples": 2048, "seed": 0, "effort": 0, "device": "cpu"},
        "recovery": {"steps": 800}, "scoring": {},
        "serving": {
            "with_tokenizer": False, "response_cache": False, "instances": 1, "queue_delay_us": 500, "keep": 2
        },
        "measuring": {"wait_minutes": 0.0},
    }  # fmt: skip
    assert list(files_in(here)) == [TOML]
    for said in (TOML, "text-classification", "'train'", "'validation'", "'text': 'text'"):
        assert said in result.stdout
    assert result.stdout.count("\n") == 1


def test_pairs_of_texts(here, bert_dir, pair_data):
    said = answer(cli("init", bert_dir, "--data", pair_data, *SHORT, "--json"))
    columns = {"text": "sentence1", "text_pair": "sentence2", "label": "label"}
    assert written(here)["data"]["columns"] == said["project"]["data"]["columns"] == columns
    assert said["project"] == load_project().model_dump(mode="json", exclude_none=True)
    assert said["path"] == str(here / TOML)


def test_images(here, vit_dir, image_data):
    result = cli("init", vit_dir, "--data", image_data, "--force")  # its labels say nothing
    assert result.exit_code == 0, result.stderr
    values = written(here)
    assert values["task"] == "image-classification"
    assert values["data"]["columns"] == {"image": "image", "label": "label"}
    assert values["workload"] == [{"batch": 1, "weight": 1.0}]


def test_one_file_is_shared_out(here, bert_dir, text_data):
    answer(cli("init", bert_dir, "--data", text_data / "train.jsonl", *SHORT, "--json"))
    data = load_project().data
    assert (data.calibration, data.evaluation) == ("train[:50%]", "train[50%:]")


def test_paths_are_kept_as_they_were_given(here, bert_dir, text_data):
    shutil.copytree(bert_dir, here / "models" / "topics")
    shutil.copytree(text_data, here / "data")
    answer(cli("init", "models/topics", "--data", "data", *SHORT, "--json"))
    assert (written(here)["model"], written(here)["data"]["path"]) == ("models/topics", "data")


def test_every_option_is_written_down(here, bert_dir, tmp_path):
    data = tmp_path / "odd"
    data.mkdir()
    rows = [{"headline": "the match", "body": "was won", "topic": "sport"}] * 12
    for split in ("fit", "check"):
        tiny.write_jsonl(data / f"{split}.jsonl", rows)
    result = cli(
        "init", bert_dir, "--data", data, "--task", "text-classification", "--text", "headline", "--text-pair", "body",
        "--label", "topic", "--calibration", "fit[:50%]", "--evaluation", "check", "--samples", 64, "--max-length", 24,
        "--batch", 1, "--batch", 8, "--seq-len", 16, "--cpu", "--threads", 3, "--force",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    values = written(here)
    assert values["data"] == {
        "path": str(data), "calibration": "fit[:50%]", "evaluation": "check", "max_length": 24,
        "columns": {"text": "headline", "text_pair": "body", "label": "topic"},
    }  # fmt: skip
    assert values["workload"] == [
        {"batch": 1, "seq_len": 16, "weight": 1.0}, {"batch": 8, "seq_len": 16, "weight": 1.0}
    ]  # fmt: skip
    assert values["target"] == {
        "device": "cpu", "runtime": "onnxruntime", "precision": "fp32", "threads": 3, "cuda_graphs": False
    }  # fmt: skip
    assert values["calibration"]["samples"] == 64


def test_default_workload_is_one_that_the_model_takes(here, bert_dir, text_data):
    answer(cli("init", bert_dir, "--data", text_data, "--json"))
    assert written(here)["workload"] == [{"batch": 1, "seq_len": 32, "weight": 1.0}]


def test_several_lengths_of_one_batch_size(here, bert_dir, text_data):
    answer(cli("init", bert_dir, "--data", text_data, "--batch", 4, "--seq-len", 8, "--seq-len", 32, "--json"))
    assert [(point.batch, point.seq_len) for point in load_project().workload] == [(4, 8), (4, 32)]


def test_gpu_can_be_the_target_where_there_is_none(here, bert_dir, text_data):
    answer(cli("init", bert_dir, "--data", text_data, *SHORT, "--gpu", "--json"))
    assert load_project().target.device == "gpu"


def test_unlabelled(here, bert_dir, tmp_path):
    tiny.write_jsonl(tmp_path / "bare.jsonl", [{"text": "the king won"}] * 20)
    refuses(here, cli("init", bert_dir, "--data", tmp_path / "bare.jsonl", *SHORT), "no label column", "--unlabelled")
    answer(cli("init", bert_dir, "--data", tmp_path / "bare.jsonl", *SHORT, "--unlabelled", "--json"))
    assert written(here)["data"]["columns"] == {"text": "text", "label": ""}


@pytest.mark.parametrize("row", [{"text": "the king won"}, {"text": "the king won", "label": None}], ids=["none", "null"])
def test_calibration_split_may_have_no_labels(row, here, bert_dir, tmp_path):
    data = tmp_path / "mixed"
    data.mkdir()
    tiny.write_jsonl(data / "train.jsonl", [row] * 20)
    tiny.write_jsonl(data / "validation.jsonl", tiny.taught(bert_dir, tiny.text_rows(12, seed=1)))
    answer(cli("init", bert_dir, "--data", data, *SHORT, "--json"))
    assert written(here)["data"]["columns"] == {"text": "text", "label": "label"}
    task = tiny.loaded_task(load_project())[1]
    assert task.calibration(8, 0).labels is None
    assert task.reserve(8, 0, 8).labels is None
    assert len(task.evaluation().labels) == 12


def test_from_python(here, bert_dir, text_data):
    settings = {"workload": [{"batch": 2, "seq_len": 8}]}
    found = prune2deploy.init(str(bert_dir), str(text_data), here, settings=settings)
    assert found.path == here / TOML
    assert load_project(found.path) == found.project
    assert found.testimony.objection is None
    assert found.testimony.samples > 8
    assert found.dense.value > 60


# what it checks against transformers' own pipeline, and against the labels


def test_what_was_found_out_is_told(here, bert_dir, text_data):
    said = answer(cli("init", bert_dir, "--data", text_data, *SHORT, "--json"))
    assert said["pipeline"].startswith("logits differ by at most ")
    rows = [json.loads(line) for line in (text_data / "validation.jsonl").read_text(encoding="utf-8").splitlines()]
    classify = pipeline("text-classification", model=str(bert_dir))
    right = sum(classify(row["text"])[0]["label"] == row["label"] for row in rows)
    assert said["dense"]["value"] == pytest.approx(100 * right / len(rows))
    (here / TOML).unlink()
    told = cli("init", bert_dir, "--data", text_data, *SHORT).stderr
    assert "transformers' pipeline: logits differ by at most" in told
    assert f"{said['dense']['value']:.2f} ± " in told


@pytest.mark.parametrize("turn", [1, 2])
def test_labels_that_do_not_fit_the_model(turn, here, bert_dir, tmp_path):
    for split in ("train", "validation"):
        rows = tiny.taught(bert_dir, tiny.text_rows(40, seed=len(split)))
        for row in rows:
            row["label"] = tiny.TOPICS[(tiny.TOPICS.index(row["label"]) + turn) % 3]
        tiny.write_jsonl(tmp_path / f"{split}.jsonl", rows)
    asked = ("init", bert_dir, "--data", tmp_path, *SHORT)
    refused(cli(*asked), "data and model do not fit together", "accuracy", "one answer to everything", "--force")
    assert files_in(here) == {}
    answer(cli(*asked, "--force", "--json"))


def test_reading_that_is_not_the_pipelines_is_refused(here, bert_dir, text_data, monkeypatch):
    real = texts.encode

    def shouting(tokenizer, columns, *others):
        return real(tokenizer, [[text.replace("k", "c") for text in column] for column in columns], *others)

    monkeypatch.setattr(texts, "encode", shouting)
    told = ("validation.jsonl, line ", "transformers' pipeline gives '", "and our reading of model and data gives '")
    refused(cli("init", bert_dir, "--data", text_data, *SHORT), *told)
    assert files_in(here) == {}


def test_serving_that_is_not_the_pipelines_is_refused_before_any_work(here, bert_dir, text_data, monkeypatch):
    monkeypatch.setattr(served_text, "decoded", lambda text: text.decode().replace("[MASK]", "king"))
    asked = ("init", bert_dir, "--data", text_data, *SHORT)
    told = ("the tokenizer's own tokens: transformers' pipeline gives", "and what a server runs gives", "--client-side")
    refused(cli(*asked), *told)
    assert files_in(here) == {}
    answer(cli(*asked, "--client-side", "--json"))


def test_options_of_the_model_that_nothing_reads_are_told(here, dense_copy, text_data):
    config = json.loads((dense_copy / "config.json").read_text(encoding="utf-8"))
    (dense_copy / "config.json").write_text(json.dumps({**config, "norm_first": True}), encoding="utf-8")
    assert "norm_first" in answer(cli("init", dense_copy, "--data", text_data, *SHORT, "--json"))["notes"][0]


def test_splits_and_files_that_are_not_used_are_told(here, bert_dir, text_data, tmp_path):
    data = shutil.copytree(text_data, tmp_path / "data")
    shutil.copy(data / "validation.jsonl", data / "test.jsonl")
    (data / "more.xlsx").write_bytes(b"PK")
    notes = answer(cli("init", bert_dir, "--data", data, *SHORT, "--json"))["notes"]
    assert any("more.xlsx" in note for note in notes)
    assert any("test" in note and "not used" in note for note in notes)


# what it refuses


def test_model_that_is_pruned_already(here, dense_copy, text_data):
    (dense_copy / PLAN_FILE).write_text("{}", encoding="utf-8")
    refuses(here, cli("init", dense_copy, "--data", text_data, *SHORT), "pruned already; give the dense one")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_samples_of_which_some_have_no_label(split, here, bert_dir, tmp_path):
    data = tmp_path / "holes"
    data.mkdir()
    for name in ("train", "validation"):
        rows = tiny.text_rows(12, seed=1)
        for row in rows[9:] if name == split else []:
            row["label"] = None
        tiny.write_jsonl(data / f"{name}.jsonl", rows)
    refuses(here, cli("init", bert_dir, "--data", data, *SHORT), "3 of 12 samples have no 'label'", "--unlabelled")


def test_evaluation_split_without_labels(here, bert_dir, tmp_path):
    data = tmp_path / "blind"
    data.mkdir()
    tiny.write_jsonl(data / "train.jsonl", tiny.text_rows(12, seed=1))
    tiny.write_jsonl(data / "validation.jsonl", [{"text": "the king won"}] * 12)
    refuses(here, cli("init", bert_dir, "--data", data, *SHORT), "has no column 'label'")


def test_project_file_that_is_there_is_never_replaced(here, bert_dir, text_data):
    (here / TOML).write_text("# mine\n", encoding="utf-8")
    refused(cli("init", bert_dir, "--data", text_data, *SHORT), TOML, "already exists")
    assert files_in(here) == {TOML: b"# mine\n"}


def test_workload_that_the_model_cannot_run(here, bert_dir, vit_dir, text_data, image_data):
    refuses(here, cli("init", bert_dir, "--data", text_data, "--seq-len", 33), "batch 1 × 33", "at most 32 tokens")
    refuses(here, cli("init", vit_dir, "--data", image_data, *SHORT), "leave --seq-len out")
    refuses(here, cli("init", bert_dir, "--data", text_data, *SHORT, "--max-length", 33), "at most 32 tokens")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--task", "translation"],
         "unknown task 'translation'; known are: embeddings, image-classification, image-embeddings"),
        (["--task", "image-classification"], "with 3 outputs: give --task text-classification"),
        (["--threshold", 0.4], "text-classification has no threshold: leave it out (--threshold"),
        (["--threshold", 1.5], "--threshold is a probability between 0 and 1, and not 1.5"),
        (["--cpu", "--gpu"], "give one of --cpu and --gpu"),
        (["--batch", 0], "workload.0.batch: "),
        (["--batch", 2, "--batch", 2], "batch 2 × 16 is given twice"),
        (["--samples", 2], "calibration.samples: "),
        (["--threads", 0], "target.threads: "),
        (["--batch", 1, "--batch", 2, "--batch", 3, "--seq-len", 8], "give --batch and --seq-len equally often"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant(options, problem, here, bert_dir, text_data):
    refuses(here, cli("init", bert_dir, "--data", text_data, *SHORT, *options), problem)


def test_model_that_is_none(here, bert_dir, text_data, tmp_path):
    data = ("--data", text_data, *SHORT)
    refuses(here, cli("init", "./nowhere", *data), "nowhere: no such model directory")
    refuses(here, cli("init", text_data, *data), "no config.json here")
    refuses(here, cli("init", bert_dir / "config.json", *data), "is a file; give the model's directory")


def test_model_of_another_task(here, bert_dir, vit_dir, image_data, text_data):
    refuses(here, cli("init", vit_dir, "--data", text_data), "which column is the image?")
    result = cli("init", bert_dir, "--data", image_data, "--task", "image-classification")
    refuses(here, result, "ForImageClassification", "BertForSequenceClassification")


def test_family_that_is_not_supported_names_those_that_are(here, dense_copy, text_data):
    config = json.loads((dense_copy / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "funnel", "architectures": ["FunnelForSequenceClassification"]}
    (dense_copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    supported = f"supported are: {', '.join(sorted(families()))}"
    refuses(here, cli("init", dense_copy, "--data", text_data, *SHORT), "'funnel'", supported)


def test_data_that_is_none(here, bert_dir, tmp_path):
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "notes.md").write_text("hello", encoding="utf-8")
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "a.csv").write_text("text,label\nking,1\n", encoding="utf-8")
    tiny.write_jsonl(tmp_path / "mixed" / "b.jsonl", [{"text": "king", "label": 1}])
    for data, problem in (
        ("./nowhere.csv", "no such data file"), (tmp_path / "empty.csv", "the file is empty"),
        (tmp_path / "notes.md", "unknown kind of data file; known are "), (tmp_path / "mixed", "files of several kinds"),
    ):  # fmt: skip
        refuses(here, cli("init", bert_dir, "--data", data, *SHORT), problem)


def test_columns_that_cannot_be_guessed(here, bert_dir, tmp_path):
    tiny.write_jsonl(tmp_path / "odd.jsonl", [{"words": "the king won", "label": 1}] * 20)
    data = ("--data", tmp_path / "odd.jsonl", *SHORT)
    refuses(here, cli("init", bert_dir, *data), "which column is the text? Name it with --text; it has: words, label")
    answer(cli("init", bert_dir, *data, "--text", "words", "--force", "--json"))
    assert load_project().data.columns == {"text": "words", "label": "label"}


@pytest.mark.parametrize("option", ["--text", "--text-pair", "--label"])
def test_column_that_the_data_lacks_is_refused_at_once(option, here, bert_dir, text_data):
    refuses(here, cli("init", bert_dir, "--data", text_data, *SHORT, option, "nowhere"), "nowhere", "text, label")


@pytest.mark.parametrize("option", ["--calibration", "--evaluation"])
def test_split_that_the_data_lacks_is_refused_at_once(option, here, bert_dir, text_data):
    refuses(here, cli("init", bert_dir, "--data", text_data, *SHORT, option, "nowhere"), "nowhere")
