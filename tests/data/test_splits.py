import csv
import json
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from prune2deploy.config import DataSettings
from prune2deploy.data.splits import ROW, column, columns_of, left_out, open_data, place_of, read_split
from prune2deploy.errors import InputError

ROWS = [{"text": f"row {index}, with a comma", "label": ("art", "war")[index % 2]} for index in range(21)]


def write(path, rows=ROWS):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
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
    assert ".csv, .json, .jsonl, .ndjson, .parquet, .tsv" in refusal(open_data, "data.xlsx", tmp_path)


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
    message = refusal(dict, open_data(name, tmp_path))
    assert "cannot be read" in message
    assert name in message


def read(tmp_path, split, **options):
    return [row["text"] for row in read_split(DataSettings(path="data.csv"), split, tmp_path, **options)]


@pytest.mark.parametrize("bounds", [(0, 50, 100), (0, 33, 34, 67, 100), (0, 1, 99, 100), (0, 10, 20, 100)])
def test_shares_are_disjoint_and_complete(tmp_path, bounds):
    write(tmp_path / "data.csv", ROWS * 5)
    shares = [
        read_split(DataSettings(path="data.csv"), f"train[{low}%:{high}%]", tmp_path).to_list()
        for low, high in pairwise(bounds)
    ]
    joined = [json.dumps({"text": row["text"], "label": row["label"]}) for share in shares for row in share]
    assert sorted(joined) == sorted(json.dumps(row) for row in ROWS * 5)
    assert sorted(row[ROW] for share in shares for row in share) == list(range(105))


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


def test_missing_labels_have_their_split_and_a_remedy():
    rows = Dataset.from_list([{"text": "a"}])
    message = refusal(column, rows, "label", {"label": "label"}, "data", "test")
    assert message.startswith("data 'data', split 'test', has no column 'label'")
    assert "--evaluation 'train[80%:]'" in message
    assert "--unlabelled" in message


@pytest.mark.parametrize(("bounds", "meant"), [(":10", ":10%"), ("5:10", "5%:10%"), ("5%:10", "5%:10%"), ("10:", "10%:")])
def test_rows_are_not_counted_out(tmp_path, bounds, meant):
    write(tmp_path / "data.csv")
    split = f"train[{bounds}]"
    assert f"rows are not counted out, only shares, as in train[{meant}]" in refusal(read, tmp_path, split)


def test_split_that_was_saved_without_rows(tmp_path):
    rows = Dataset.from_list(ROWS)
    DatasetDict(train=rows, test=rows.select([])).save_to_disk(tmp_path / "saved")
    assert len(open_data("saved", tmp_path)["test"]) == 0
    assert "split 'test': no rows" in refusal(read_split, DataSettings(path="saved"), "test", tmp_path)


def test_column_whose_name_no_one_can_say(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "a\0b": [1]}), tmp_path / "x.parquet")
    assert "the name of column 'a\\x00b' holds a NUL; rename" in refusal(dict, open_data("x.parquet", tmp_path))


def test_hidden_column_is_no_column_of_the_data(tmp_path):
    write(tmp_path / "data.csv")
    rows = read_split(DataSettings(path="data.csv"), "train", tmp_path)
    assert columns_of(rows) == ["text", "label"]
    assert ROW not in refusal(column, rows, "text", {"text": ROW}, "data").split("it has:")[1]


# splits that are several


def test_joined_splits_follow_each_other_and_are_shared_out_as_one(tmp_path):
    write(tmp_path / "train_b.jsonl", ROWS[10:])
    write(tmp_path / "train_a.jsonl", ROWS[:10])
    data = DataSettings(path=".")
    assert list(read_split(data, "train_a+train_b", tmp_path)["text"]) == [row["text"] for row in ROWS]
    halves = [list(read_split(data, f"train_a+train_b[{share}]", tmp_path)["text"]) for share in (":50%", "50%:")]
    assert [len(half) for half in halves] == [10, 11]
    assert sorted(halves[0] + halves[1]) == sorted(row["text"] for row in ROWS)
    assert any(text in halves[0] for text in [row["text"] for row in ROWS[10:]])


def test_splits_that_do_not_fit_together_are_not_joined(tmp_path):
    write(tmp_path / "a.jsonl", ROWS[:3])
    write(tmp_path / "b.jsonl", [{"text": "bare"}])
    assert "'a' and 'b' cannot be joined, column 'label'" in refusal(read_split, DataSettings(path="."), "a+b", tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0, 1], ["0", "x"], ["0", "1", "0", "x"]),
        ([None], ["x"], [None, "x"]),
        ([1], [0.5], [1.0, 0.5]),
        ([True], ["x"], ["True", "x"]),
        ([1.0, 2.5], ["x"], ["1", "2.5", "x"]),
    ],
)
def test_joined_splits_may_keep_the_same_in_other_types(tmp_path, first, second, expected):
    write(tmp_path / "a.jsonl", [{"text": "t", "label": value} for value in first])
    write(tmp_path / "b.jsonl", [{"label": value, "text": "t"} for value in second])
    for names in ("a+b", "b+a"):
        found = list(read_split(DataSettings(path="."), names, tmp_path)["label"])
        assert sorted(map(str, found)) == sorted(map(str, expected))
    assert list(read_split(DataSettings(path="."), "a+b", tmp_path)["label"]) == expected


def test_lists_and_words_are_not_joined(tmp_path):
    write(tmp_path / "a.jsonl", [{"label": [1]}])
    write(tmp_path / "b.jsonl", [{"label": 1}])
    message = refusal(read_split, DataSettings(path="."), "a+b", tmp_path)
    assert "column 'label' differs (List(Value('int64')), Value('int64'))" in message


# the hub


def test_data_of_the_hub_have_places_as_well(tmp_path, monkeypatch):
    asked = []
    rows = [{"text": f"row {index}"} for index in range(9)]
    there = DatasetDict({"train_a": Dataset.from_list(rows[:4]), "train_b": Dataset.from_list(rows[4:])})
    for split in there.values():
        split.info.download_checksums = {"hf://datasets/org/name@0123/x.csv": {}}
    monkeypatch.setattr("datasets.load_dataset", lambda *names, **_: asked.append(names) or there)
    data = DataSettings(path="org/name:config")
    found = read_split(data, "train_a+train_b[50%:]", tmp_path)
    for index, text in enumerate(found["text"]):
        row = int(text.split()[1])
        place = f"train_a, row {row} (counted from 0)" if row < 4 else f"train_b, row {row - 4} (counted from 0)"
        assert place_of(found, index, data, "train_a+train_b[50%:]", tmp_path) == place
    assert set(asked) == {("org/name", "config")}
    assert left_out("org/name:config", tmp_path) == []
