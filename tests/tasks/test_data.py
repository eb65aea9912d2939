import csv
import json
from itertools import pairwise
from pathlib import Path

import pytest
import tiny
from datasets import Dataset
from PIL import Image

from prune2deploy.config import DataSettings
from prune2deploy.errors import InputError
from prune2deploy.tasks.data import class_indices, column, guess_splits, open_data, read_split

ROWS = [{"text": f"row {index}, with a comma", "label": ("art", "war")[index % 2]} for index in range(21)]


def write(path, rows=ROWS):
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(
                stream, ["text", "label"], delimiter="\t" if path.suffix == ".tsv" else ","
            )
            writer.writeheader()
            writer.writerows(rows)
    return path


def refusal(function, *args):
    with pytest.raises(InputError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "tsv", "parquet"])
def test_every_kind_of_file_is_read(tmp_path, suffix):
    write(tmp_path / f"data.{suffix}")
    splits = open_data(f"data.{suffix}", tmp_path)
    assert list(splits) == ["train"]
    assert splits["train"].to_list() == ROWS


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_files_of_a_directory_are_its_splits(tmp_path, suffix):
    write(tmp_path / f"train.{suffix}", ROWS[:5])
    write(tmp_path / f"dev.{suffix}", ROWS[5:8])
    (tmp_path / "README.md").write_text("not data")
    splits = open_data(".", tmp_path)
    assert {name: rows.to_list() for name, rows in splits.items()} == {"train": ROWS[:5], "dev": ROWS[5:8]}


def test_image_folder_is_read_with_its_labels(image_data):
    splits = open_data(str(image_data), image_data)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 12, "validation": 12}
    assert splits["train"][4]["label"] == "sport"
    assert splits["train"][4]["image"].size == (24, 20)


@pytest.mark.parametrize("path", ["./nowhere.csv", "/nowhere/at/all"])
def test_missing_file(tmp_path, path):
    assert "no such data file or directory" in refusal(open_data, path, tmp_path)


def test_name_that_is_neither_here_nor_on_the_hub(tmp_path):
    assert "'no-such-data-set': nothing of that name here" in refusal(open_data, "no-such-data-set", tmp_path)


def test_unknown_kind_of_file_names_the_known_ones(tmp_path):
    (tmp_path / "data.xlsx").write_bytes(b"PK")
    assert ".csv, .json, .jsonl, .parquet, .tsv" in refusal(open_data, "data.xlsx", tmp_path)


def test_files_of_several_kinds(tmp_path):
    write(tmp_path / "train.csv")
    write(tmp_path / "dev.jsonl")
    assert "several kinds (csv, json)" in refusal(open_data, str(tmp_path), tmp_path)


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "tsv", "parquet"])
def test_empty_file(tmp_path, suffix):
    (tmp_path / f"train.{suffix}").touch()
    assert f"train.{suffix}: the file is empty" in refusal(open_data, str(tmp_path), tmp_path)


def test_file_with_a_header_and_no_rows(tmp_path):
    write(tmp_path / "train.csv", [])
    data = DataSettings(path="train.csv")
    refusal(read_split, data, "train", tmp_path)


def test_empty_directory(tmp_path):
    refusal(open_data, str(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.jsonl", '{"text": "a"}\n{"text": \n'),
        ("data.parquet", "PAR1 and then nothing"),
        ("data.json", "[1, 2"),
    ],
)
def test_damaged_file(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert "cannot be read" in refusal(open_data, name, tmp_path)


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (["train", "validation", "test"], ("train", "validation")),
        (["test", "dev", "train"], ("train", "dev")),
        (["train", "test"], ("train", "test")),
        (["train", "validation_matched", "validation_mismatched"], ("train", "validation_matched")),
        (["train"], ("train[:50%]", "train[50%:]")),
        (["test"], ("test[:50%]", "test[50%:]")),
    ],
)
def test_splits_are_guessed(splits, expected):
    assert guess_splits(dict.fromkeys(splits), "data") == expected


def test_data_without_a_split():
    assert "holds no split" in refusal(guess_splits, {}, "data")


def read(tmp_path, split, **options):
    return [row["text"] for row in read_split(DataSettings(path="data.csv"), split, tmp_path, **options)]


@pytest.mark.parametrize("bounds", [(0, 50, 100), (0, 33, 34, 67, 100), (0, 1, 99, 100), (0, 10, 20, 100)])
def test_shares_are_disjoint_and_complete(tmp_path, bounds):
    write(tmp_path / "data.csv", ROWS * 5)
    shares = [
        read_split(DataSettings(path="data.csv"), f"train[{low}%:{high}%]", tmp_path).to_list()
        for low, high in pairwise(bounds)
    ]
    joined = [json.dumps(row) for share in shares for row in share]
    assert sorted(joined) == sorted(json.dumps(row) for row in ROWS * 5)


def test_half_a_split_is_half_of_it_and_mixed(tmp_path):
    rows = [{"text": str(index), "label": "art"} for index in range(100)]
    write(tmp_path / "data.csv", rows)
    data = DataSettings(path="data.csv")
    first, second = (read_split(data, split, tmp_path)["text"] for split in ("train[:50%]", "train[50%:]"))
    assert (len(first), len(second)) == (50, 50)
    assert set(first).isdisjoint(second)
    assert 10 < sum(int(text) < 50 for text in first) < 40, "sorted data must not give one class to each half"
    assert list(first) == list(read_split(data, "train[:50%]", tmp_path)["text"])
    assert list(first) != list(read_split(data, "train[:50%]", tmp_path, seed=1)["text"])


def test_split_without_a_share_keeps_the_order_of_the_file(tmp_path):
    write(tmp_path / "data.csv")
    assert read(tmp_path, "train") == [row["text"] for row in ROWS]


@pytest.mark.parametrize("split", ["train[50%:20%]", "train[30%:30%]", "train[:101%]"])
def test_share_that_makes_no_sense(tmp_path, split):
    write(tmp_path / "data.csv")
    assert "shares run from 0 to 100 %" in refusal(read, tmp_path, split)


@pytest.mark.parametrize("split", ["train[", "train[a:b]", "", "train validation", "train[:50%]x"])
def test_split_that_cannot_be_parsed(tmp_path, split):
    write(tmp_path / "data.csv")
    assert "write a name, or a share" in refusal(read, tmp_path, split)


def test_share_so_small_that_nothing_is_left(tmp_path):
    write(tmp_path / "data.csv")
    assert "no rows" in refusal(read, tmp_path, "train[:1%]")


def test_missing_split_names_those_there_are(text_data):
    message = refusal(read_split, DataSettings(path=str(text_data)), "test", text_data)
    assert "no split 'test'" in message
    assert "train, validation" in message


def test_missing_column_names_those_there_are():
    rows = Dataset.from_list(ROWS)
    assert column(rows, "text", {"text": "text"}, "data") == "text"
    message = refusal(column, rows, "text", {"text": "body"}, "data")
    assert "'body'" in message
    assert "text, label" in message


# labels

IDS = {"art": 0, "sport": 1, "war": 2}


class Names:
    def __init__(self, *names):
        self.names = list(names)


@pytest.mark.parametrize(
    ("values", "feature", "expected"),
    [
        (["war", "art"], None, [2, 0]),
        ([2, 0, 1], None, [2, 0, 1]),
        (["2", "0"], None, [2, 0]),
        ([2.0, 0.0], None, [2, 0]),
        ([0, 1, 2], Names("war", "art", "sport"), [2, 0, 1]),  # the data set numbers its classes otherwise
        ([0, 1], Names("negative", "positive"), [0, 1]),  # names that the model does not know say nothing
        (["sport"], Names("war", "art", "sport"), [1]),
    ],
)
def test_labels_become_the_models_own_classes(values, feature, expected):
    assert class_indices(values, feature, IDS, 3, "data") == expected


@pytest.mark.parametrize("value", [3, -1, 1.5, None, True, "poetry", "3", "", [1], float("nan")])
def test_label_that_the_model_does_not_know_is_named(value):
    message = refusal(class_indices, [0, 1, value], None, IDS, 3, "data")
    assert f"label {value!r}" in message
    assert "art, sport, war" in message


def test_long_list_of_classes_is_cut_short():
    ids = {f"class {index}": index for index in range(1000)}
    message = refusal(class_indices, ["x"], None, ids, 1000, "data")
    assert len(message) < 250
    assert "…" in message


@pytest.mark.parametrize("split", ["", "train/"])
def test_image_whose_name_speaks_of_a_split_is_an_image_like_any_other(split, tmp_path):
    names = [f"{split}{name}.png" for name in ("bullet_train", "test_tube", "otter")]
    (tmp_path / split).mkdir(exist_ok=True)
    for name in names:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    rows = [{"file_name": Path(name).name, "label": index} for index, name in enumerate(names)]
    tiny.write_jsonl(tmp_path / split / "metadata.jsonl", rows)
    found = open_data(str(tmp_path), tmp_path)
    assert {name: sorted(split["label"]) for name, split in found.items()} == {"train": [0, 1, 2]}
