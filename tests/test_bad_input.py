"""What a user can get wrong: exit code 2, one line that says what to do, nothing half-written."""

import json
import re

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from steady import cli, files_in, refused

from prune2deploy.config import save_project
from prune2deploy.models.checkpoint import PLAN_FILE, WEIGHTS_FILE
from prune2deploy.models.family import families

pytest_plugins = ("made",)

TOML = "prune2deploy.toml"
PRUNE = ("prune", "--flops", 0.5)
FAST = ("prune", "--speedup", 1.5)
RUN = ("run", "--speedup", 1.5)
BROKEN_JSON = {
    "truncated": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "no object": lambda text: "[]",
    "unknown key": lambda text: text.replace("{", '{"more": 1,', 1),
    "not a number": lambda text: of_version(text, "NaN"),
    "of the future": lambda text: of_version(text, "3"),
}


def of_version(text, version):
    found, count = re.subn(r'"schema_version": [12]\b', f'"schema_version": {version}', text, count=1)
    assert count == 1
    return found


def change_json(path, change):
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


@pytest.fixture
def here(tmp_path, monkeypatch):
    root = tmp_path / "here"
    root.mkdir()
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def project(here, make_project):
    """Writes the project file: `project(model, data)`."""

    def write(model, data, task="text-classification", **changes):
        (here / TOML).unlink(missing_ok=True)
        made = make_project(model, data, task, here, target={"threads": 1}, **changes)
        save_project(made, here / TOML)

    return write


def refuses(root, arguments, *needles):
    """The command's one line; no file has come or gone or changed."""
    before = files_in(root)
    message = refused(cli(*arguments), *needles)
    assert files_in(root) == before
    return message


# the model


@pytest.mark.parametrize("command", [("profile",), PRUNE, RUN], ids=lambda command: command[0])
def test_model_directory_without_a_config(command, here, project, dense_copy, text_data):
    (dense_copy / "config.json").unlink()
    project(dense_copy, text_data)
    refuses(here, command, dense_copy, "no config.json here")


@pytest.mark.parametrize("command", [("profile",), PRUNE, RUN], ids=lambda command: command[0])
def test_pickled_weights(command, here, project, dense_copy, text_data):
    (dense_copy / WEIGHTS_FILE).unlink()
    (dense_copy / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    project(dense_copy, text_data)
    refuses(here, command, "pytorch_model.bin is a pickle, which is never loaded: convert it to safetensors")


@pytest.mark.parametrize("command", [("profile",), PRUNE, RUN], ids=lambda command: command[0])
def test_unsupported_family(command, here, project, dense_copy, text_data):
    names = {"model_type": "funnel", "architectures": ["FunnelForSequenceClassification"]}
    change_json(dense_copy / "config.json", lambda values: values.update(names))
    project(dense_copy, text_data)
    refuses(here, command, "'funnel'", f"supported are: {', '.join(sorted(families()))}")


@pytest.mark.parametrize("command", [("profile",), PRUNE], ids=lambda command: command[0])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(value, command, here, project, dense_copy, text_data):
    weights = load_file(dense_copy / WEIGHTS_FILE)
    weights["classifier.weight"][0, 0] = value
    save_file(weights, dense_copy / WEIGHTS_FILE, metadata={"format": "pt"})
    project(dense_copy, text_data)
    refuses(here, command, "classifier.weight holds NaN or infinite values")


def test_truncated_weights(here, project, dense_copy, text_data):
    content = (dense_copy / WEIGHTS_FILE).read_bytes()
    (dense_copy / WEIGHTS_FILE).write_bytes(content[:-100])
    project(dense_copy, text_data)
    for command in (("profile",), PRUNE):
        refuses(here, command, dense_copy, "the weights cannot be loaded")


def test_model_that_is_pruned_already(work_pruned, project, text_data, here):
    project(work_pruned / "pruned", text_data)
    refuses(here, PRUNE, "pruned already; give the dense one")


# the data


def test_data_without_the_label_column(here, project, bert_dir, text_data):
    project(bert_dir, text_data, data_columns={"text": "text", "label": "topic"})
    refuses(here, PRUNE, "no column 'topic' (named as `label` in the project); it has: text, label")


def test_data_without_the_split(here, project, bert_dir, text_data):
    project(bert_dir, text_data, data_evaluation="test")
    refuses(here, PRUNE, "has no split 'test'; it has: train, validation")


@pytest.mark.parametrize("label", [3, -1, "music", 0.5])
def test_label_that_the_model_does_not_know(label, here, project, bert_dir, tmp_path):
    rows = [{"text": "the king won", "label": 0 if isinstance(label, int | float) else "art"} for _ in range(20)]
    tiny.write_jsonl(tmp_path / "labels.jsonl", [*rows, {"text": "the song", "label": label}])
    project(bert_dir, tmp_path / "labels.jsonl", data_evaluation="train")
    refuses(here, PRUNE, "is not one of the model's 3 classes (art, sport, war)")


def test_sample_without_a_label(here, project, bert_dir, tmp_path):
    tiny.write_jsonl(tmp_path / "labels.jsonl", [*tiny.text_rows(20, seed=0), {"text": "the song", "label": None}])
    project(bert_dir, tmp_path / "labels.jsonl", data_evaluation="train")
    refuses(here, PRUNE, "1 of 21 samples have no 'label'")


def test_too_few_samples(here, project, bert_dir, tmp_path):
    tiny.write_jsonl(tmp_path / "few.jsonl", tiny.text_rows(8, seed=0))
    project(bert_dir, tmp_path / "few.jsonl", data_calibration="train[:50%]", data_evaluation="train[50%:]")
    refuses(here, PRUNE, "4 samples are too few to calibrate on; give 8 or more")


def test_data_that_cannot_be_read(here, project, bert_dir, tmp_path):
    (tmp_path / "torn.jsonl").write_text('{"text": "king", "label": 1}\n{"text": "que', encoding="utf-8")
    project(bert_dir, tmp_path / "torn.jsonl", data_evaluation="train")
    message = refuses(here, PRUNE, "torn.jsonl", "cannot be read")
    assert cli(*PRUNE).stderr == message + "\n"


# the budget


@pytest.mark.parametrize("command", ["prune", "run"])
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "give one budget: --latency-ms or --speedup"),
        (["--speedup", 2, "--latency-ms", 2], "give one budget"),
        (["--speedup", 1], "a speedup is larger than 1"),
        (["--speedup", 0.5], "a speedup is larger than 1"),
        (["--speedup", "nan"], "a budget is a number above 0"),
        (["--latency-ms", 0], "a budget is a number above 0"),
        (["--latency-ms", -3], "a budget is a number above 0"),
        (["--latency-ms", "inf"], "a budget is a number above 0"),
    ],
)
def test_budget_that_is_none(options, problem, command, here, project, bert_dir, text_data):
    project(bert_dir, text_data)
    refuses(here, [command, *options], problem)


@pytest.mark.parametrize("share", [0, 1, 1.5])
def test_share_of_flops_that_is_none(share, here, project, bert_dir, text_data):
    project(bert_dir, text_data)
    refuses(here, ["prune", "--flops", share], f"--flops {share}")


@pytest.mark.parametrize("command", ["prune", "run"])
def test_budget_out_of_reach_names_what_is_reachable(command, work, bert_made, clock):
    table = bert_made.said["profile"]
    reachable = f"with every block removed the model still takes {table['fixed_ms']:.4g} ms"
    refuses(work, [command, "--latency-ms", table["fixed_ms"] / 2], "out of reach", reachable)
    refuses(work, [command, "--speedup", 99], f"{table['dense_ms'] / table['fixed_ms']:.3g} times as fast; ask for less")


@pytest.mark.parametrize("command", ["prune", "run"])
def test_budget_above_dense(command, work, bert_made, clock):
    dense = f"the dense model takes {bert_made.said['profile']['dense_ms']:.3g} ms already"
    refuses(work, [command, "--latency-ms", 1000], "asks for nothing", dense)


def test_export_to_another_budget_is_a_number_too(work_pruned):
    refuses(work_pruned, ["export", "--latency-ms", -1], "a budget is a number above 0")


# latency tables


@pytest.fixture
def table(work):
    [path] = (work / "profiles").rglob("*.json")
    return path


FOREIGN = {
    "model": (lambda values: values["signature"]["fixed"].update(activation="relu"), "model bert-", ["--table"]),
    "device": (lambda values: values["device"].update(name="Another"), "made for Another (", []),
    "cores": (lambda values: values["device"].update(cores=99), "(99 cores), and this is ", []),
    "kind": (lambda values: values["device"].update(kind="gpu"), "a gpu, and the target is a cpu", ["--table"]),
    "runtime": (lambda values: values["runtime"].update(name="tensorrt"), "tensorrt in fp32, and the target", ["--table"]),
    "version": (lambda values: values["runtime"].update(version="0.1"), "CPUExecutionProvider 0.1, and here is", []),
    "threads": (lambda values: values["runtime"].update(threads=7), "7 threads, and the target has 1", ["--table"]),
    "precision": (lambda values: values.update(precision="int8"), "onnxruntime in int8", ["--table"]),
}


@pytest.mark.parametrize("which", FOREIGN)
def test_table_that_was_made_for_something_else(which, work, table):
    change, problem, also_given = FOREIGN[which]
    change_json(table, change)
    said = (problem, "this latency table was made for ", "measure one with `prune2deploy profile`")
    refuses(work, FAST, *said)
    for option in also_given:
        refuses(work, [*FAST, option, table], *said)


def test_table_of_another_model(table, here, project, text_data, tmp_path):
    smaller = tmp_path / "smaller"
    smaller.mkdir()
    project(tiny.save_bert(smaller, num_hidden_layers=2), text_data)
    refuses(here, [*FAST, "--table", table], "made for model bert-l3-", "this one is bert-l2-")
    refuses(here, FAST, "no latency table here: measure one with `prune2deploy profile`")


def test_table_without_the_workload(work):
    refuses(work, [*FAST, "--batch", 4], "has no batch 4 × 8 (it has: batch 2 × 8)")
    refuses(work, [*FAST, "--seq-len", 16], "has no batch 1 × 16 (it has: batch 2 × 8)")


def test_table_for_another_number_of_threads(work, table):
    refuses(work, [*FAST, "--threads", 2], "-2t.fp32.json: no latency table here")
    refuses(work, [*FAST, "--threads", 2, "--table", table], "1 threads, and the target has 2")


@pytest.mark.parametrize("damage", BROKEN_JSON)
def test_damaged_table(damage, work, table):
    table.write_text(BROKEN_JSON[damage](table.read_text(encoding="utf-8")), encoding="utf-8")
    for command in (FAST, [*FAST, "--table", table.relative_to(work)], RUN):
        refuses(work, command, table.name, "not a valid latency table")


def test_table_of_impossible_times(work, table):
    change_json(table, lambda values: values["points"][0]["curves"]["ffn"][0]["ms"].__setitem__(1, -1.0))
    refuses(work, FAST, "never be negative")


def test_no_table(work, table):
    refuses(work, [*FAST, "--table", "nowhere.json"], "nowhere.json: no latency table here")


# the pruned model


@pytest.mark.parametrize("damage", BROKEN_JSON)
def test_damaged_plan(damage, work_pruned):
    plan = work_pruned / "pruned" / PLAN_FILE
    plan.write_text(BROKEN_JSON[damage](plan.read_text(encoding="utf-8")), encoding="utf-8")
    refuses(work_pruned, ["export"], PLAN_FILE, "not a valid pruned model record")


def test_plan_of_units_that_the_model_lacks(work_pruned):
    change_json(work_pruned / "pruned" / PLAN_FILE, lambda values: values["plan"]["kept"].update({"0.ffn": "0-64"}))
    refuses(work_pruned, ["export"], "block 0.ffn: unit 64 is kept, but the block has only 64")


def test_damaged_pruned_weights(work_pruned):
    weights = work_pruned / "pruned" / WEIGHTS_FILE
    content = weights.read_bytes()
    for damaged in (content[:-10], b"", content[:-1] + bytes([content[-1] ^ 1])):
        weights.write_bytes(damaged)
        refuses(work_pruned, ["export"], f"pruned/{WEIGHTS_FILE}: damaged or replaced")
    weights.unlink()
    refuses(work_pruned, ["export"], f"{WEIGHTS_FILE} is missing")


def test_pruned_model_of_another_model(work_pruned, dense_copy):
    weights = load_file(dense_copy / WEIGHTS_FILE)
    weights["classifier.bias"] += torch.ones(3)
    save_file(weights, dense_copy / WEIGHTS_FILE, metadata={"format": "pt"})
    text = (work_pruned / TOML).read_text(encoding="utf-8").splitlines()
    text = [f'model = "{dense_copy}"' if line.startswith("model = ") else line for line in text]
    (work_pruned / TOML).write_text("\n".join(text), encoding="utf-8")
    refuses(work_pruned, ["export"], f"{dense_copy} is another model")


def test_no_pruned_model(work, bert_dir):
    refuses(work, ["export"], "pruned: no such directory; make one with `prune2deploy prune`")
    refuses(work, ["export", "--pruned", bert_dir], "this is not a pruned model")


# what is there already


def test_output_that_exists_is_left_alone(work_pruned, bert_made):
    name = bert_made.package.name
    (work_pruned / "pruned" / "mine.txt").write_text("mine")
    entry = work_pruned / "model_repository" / name
    entry.mkdir(parents=True)
    for command in (FAST, PRUNE):
        refuses(work_pruned, command, "pruned already exists: remove it, or name another place with --out")
    for command in (["export"], RUN):
        needle = f"model_repository/{name} is there and not to be added to"
        refuses(work_pruned, command, needle, "export under another --name")


# the project file and the package


@pytest.mark.parametrize("command", [("profile",), PRUNE, ("export",), RUN], ids=lambda command: command[0])
def test_no_project_file(command, here):
    refuses(here, command, f"no {TOML} here: write one with `prune2deploy init MODEL --data DATA`")
    refuses(here, [*command, "--project", "other.toml"], "no other.toml here")


@pytest.mark.parametrize("command", [("profile",), PRUNE, ("export",), RUN, ("validate", "x")], ids=lambda c: c[0])
def test_malformed_project_file(command, here):
    (here / TOML).write_text("model = \n[", encoding="utf-8")
    refuses(here, command, f"{TOML}: cannot be read: ")


def test_project_file_with_an_unknown_key(here, project, bert_dir, text_data):
    project(bert_dir, text_data)
    (here / TOML).write_text('modle = "x"\n' + (here / TOML).read_text(encoding="utf-8"), encoding="utf-8")
    refuses(here, ("profile",), f"{TOML}: modle: Extra inputs")


def test_options_that_cannot_be_meant(here, project, bert_dir, text_data):
    project(bert_dir, text_data)
    for options, problem in (
        (["--threads", 0], "the command line: target.threads: "), (["--batch", 0], "the command line: workload.0.batch: "),
        (["--seq-len", 33], "the model takes at most 32 tokens"), (["--cpu", "--gpu"], "give one of --cpu and --gpu"),
        (["--batch", 2, "--batch", 2], "batch 2 × 8 is given twice"),
    ):  # fmt: skip
        refuses(here, ["profile", *options], problem)
    refuses(here, [*PRUNE, "--method", "magic"], "unknown method 'magic'; known are: fisher, hawq, k-prune, kwon")


def test_validating_what_is_no_package(work_pruned):
    refuses(work_pruned, ["validate", "nowhere"], "nowhere: no such package; make one with `prune2deploy export`")
    refuses(work_pruned, ["validate", "pruned"], "pruned: no version directory here, so this is not a package of prune")


@pytest.mark.parametrize("method", ["ours", "fisher", "kwon", "ziplm", "k-prune", "optin", "magnitude"])
def test_model_that_overflows(method, here, project, dense_copy, text_data):
    """Its weights are finite, and what it makes of the data is not."""
    weights = load_file(dense_copy / WEIGHTS_FILE)
    weights["bert.encoder.layer.2.output.dense.weight"] *= 1e30
    save_file(weights, dense_copy / WEIGHTS_FILE, metadata={"format": "pt"})
    project(dense_copy, text_data)
    refuses(here, [*PRUNE, "--method", method], text_data, "not finite on some samples")
