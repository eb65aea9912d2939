import bz2
import csv
import gzip
import json
import lzma
import os
from itertools import pairwise

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

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


# layouts


def test_shards_are_read_in_order(tmp_path):
    for index in range(3):
        write(tmp_path / f"train-{index:05}-of-00003.parquet", ROWS[7 * index : 7 * index + 7])
    assert open_data(".", tmp_path)["train"].to_list() == ROWS


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst", "lz4"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "json"])
def test_compressed_files(tmp_path, kind, suffix):
    content = write(tmp_path / f"train.{kind}").read_bytes()
    (tmp_path / f"train.{kind}").unlink()
    target = tmp_path / f"train.{kind}.{suffix}"
    if suffix in ("zst", "lz4"):
        with pa.CompressedOutputStream(str(target), {"zst": "zstd"}.get(suffix, suffix)) as stream:
            stream.write(content)
    else:
        target.write_bytes({"gz": gzip, "bz2": bz2, "xz": lzma}[suffix].compress(content))
    assert open_data(".", tmp_path)["train"].to_list() == ROWS
    target.write_bytes(target.read_bytes()[:-12])
    assert f"train.{kind}.{suffix}" in refusal(dict, open_data(".", tmp_path))


def test_saved_data_sets_are_read_as_datasets_does(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["war", "art"])})
    saved = Dataset.from_list([{**row, "label": index % 2} for index, row in enumerate(ROWS)], features=features)
    DatasetDict({"train": saved, "validation": saved.select([3, 1])}).save_to_disk(tmp_path / "both")
    saved.shuffle(seed=1).save_to_disk(tmp_path / "[one]")
    both = open_data("both", tmp_path)
    assert {name: len(rows) for name, rows in both.items()} == {"train": 21, "validation": 2}
    assert both["train"].features == features
    assert both["validation"].to_list() == saved.select([3, 1]).to_list()
    assert open_data("[one]", tmp_path)["train"].to_list() == saved.shuffle(seed=1).to_list()


def test_what_is_not_read_is_named(tmp_path):
    write(tmp_path / "train.jsonl")
    (tmp_path / "more.zip").write_bytes(b"PK")
    (tmp_path / "LICENSE").touch()
    assert left_out(".", tmp_path) == ["more.zip"]
    assert left_out("train.jsonl", tmp_path) == []


# the file that is named, as it is now


@pytest.mark.parametrize("name", ["a[12]", "a*", "a?", "{a}", "a::b", "a#b", "a b", "a%20b", "~a", "日本", "a+b"])
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_names_are_literal(tmp_path, name, suffix):
    for other in ("a1", "a2", "ab", "a"):
        write(tmp_path / f"{other}.{suffix}", ROWS[:1])
        (tmp_path / other).mkdir()
        write(tmp_path / other / f"train.{suffix}", ROWS[:1])
    write(tmp_path / f"{name}.{suffix}", ROWS[1:4])
    (tmp_path / name).mkdir()
    write(tmp_path / name / f"{name}.{suffix}", ROWS[5:7])
    assert open_data(f"./{name}.{suffix}", tmp_path)["train"].to_list() == ROWS[1:4]
    (rows,) = open_data(f"./{name}", tmp_path).values()
    assert rows.to_list() == ROWS[5:7]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "tsv", "parquet"])
@pytest.mark.parametrize("in_place", [True, False])
def test_file_that_was_replaced_is_read_again(tmp_path, suffix, in_place):
    path = write(tmp_path / f"data.{suffix}", ROWS[:2])
    os.utime(path, (315532800, 315532800))
    assert open_data(path.name, tmp_path)["train"].to_list() == ROWS[:2]
    if not in_place:
        path.unlink()
    write(path, ROWS[2:4])
    os.utime(path, (315532800, 315532800))
    assert open_data(path.name, tmp_path)["train"].to_list() == ROWS[2:4]


def test_nothing_is_left_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write(tmp_path / "data.csv")
    rows = read_split(DataSettings(path="data.csv"), "train[:50%]", tmp_path)
    assert len(rows) == 10
    assert not list((tmp_path / "cache").iterdir())


# parquet


def test_parquet_keeps_what_datasets_wrote_of_its_columns(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["war", "art"])})
    Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features).to_parquet(tmp_path / "train.parquet")
    assert open_data(".", tmp_path)["train"].features == features


def test_categories_of_pandas_are_text(tmp_path):
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": pd.Categorical(["pos", "neg", "pos"])})[::-1]
    frame.to_parquet(tmp_path / "train.parquet")
    rows = open_data(".", tmp_path)["train"]
    assert rows.to_list() == [{"text": text, "label": name} for text, name in (("c", "pos"), ("b", "neg"), ("a", "pos"))]


def test_files_of_a_split_that_disagree(tmp_path):
    pd.DataFrame({"text": ["a"], "label": [1]}).to_parquet(tmp_path / "train-00000-of-00002.parquet")
    for other, problem in (
        ({"text": ["b"], "label": ["neg"]}, "string') here and Value('int64') in train-00000-of-00002.parquet"),
        ({"text": ["b"]}, "column 'label' is not there here"),
    ):
        pd.DataFrame(other).to_parquet(tmp_path / "train-00001-of-00002.parquet")
        message = refusal(dict, open_data(".", tmp_path))
        assert problem in message
        assert "train-00001-of-00002.parquet" in message


def test_class_labels_that_are_numbered_otherwise_are_not_joined(tmp_path):
    for index, names in enumerate((["a", "b"], ["b", "a"])):
        features = Features({"label": ClassLabel(names=names)})
        rows = Dataset.from_dict({"label": [0]}, features=features)
        rows.to_parquet(tmp_path / f"train-{index:05}-of-00002.parquet")
    assert "column 'label' is ClassLabel(names=['b', 'a']" in refusal(dict, open_data(".", tmp_path))


def test_empty_shard_takes_the_types_of_the_others(tmp_path):
    pd.DataFrame({"text": [None], "label": [None]}).to_parquet(tmp_path / "train-00000-of-00002.parquet")
    pd.DataFrame({"text": ["b"], "label": [1]}).to_parquet(tmp_path / "train-00001-of-00002.parquet")
    assert open_data(".", tmp_path)["train"].to_list() == [{"text": None, "label": None}, {"text": "b", "label": 1}]


# places


@pytest.mark.parametrize(
    ("suffix", "place"),
    [("jsonl", "line 18"), ("json", "row 17 (counted from 0)"), ("csv", "line 21"), ("tsv", "line 21"),
     ("parquet", "row 17 (counted from 0)")],
)  # fmt: skip
@pytest.mark.parametrize("split", ["train", "train[:50%]", "train[50%:]"])
def test_place_is_that_in_the_file(tmp_path, suffix, place, split):
    rows = [{**row, "text": row["text"] + ("\nand a line" if index == 4 else "")} for index, row in enumerate(ROWS)]
    rows[4]["text"] += "\nand another" * (suffix in ("csv", "tsv"))
    write(tmp_path / f"data.{suffix}", rows)
    data = DataSettings(path=f"data.{suffix}")
    texts = list(read_split(data, split, tmp_path)["text"])
    if rows[17]["text"] in texts:
        index = texts.index(rows[17]["text"])
        found = place_of(read_split(data, split, tmp_path), index, data, split, tmp_path)
        assert found == f"data.{suffix}, {place}"
        chosen = read_split(data, split, tmp_path).select([index])
        assert place_of(chosen, 0, data, split, tmp_path) == found


def test_place_in_one_of_several_files(tmp_path):
    (tmp_path / "train").mkdir()
    write(tmp_path / "train" / "1.jsonl", ROWS[:3])
    write(tmp_path / "train" / "2.jsonl", ROWS[3:5])
    write(tmp_path / "train" / "10.jsonl", ROWS[5:])
    data = DataSettings(path=".")
    rows = read_split(data, "train", tmp_path)
    places = [place_of(rows, index, data, "train", tmp_path) for index in (2, 3, 5)]
    assert places == ["train/1.jsonl, line 3", "train/2.jsonl, line 1", "train/10.jsonl, line 1"]


def test_place_in_joined_splits(tmp_path):
    write(tmp_path / "a.jsonl", ROWS[:3])
    write(tmp_path / "b.jsonl", ROWS[3:])
    data = DataSettings(path=".")
    rows = read_split(data, "a+b[:50%]", tmp_path)
    for index, row in enumerate(rows):
        number = ROWS.index({"text": row["text"], "label": row["label"]})
        place = f"a.jsonl, line {number + 1}" if number < 3 else f"b.jsonl, line {number - 2}"
        assert place_of(rows, index, data, "a+b[:50%]", tmp_path) == place


def test_files_of_a_split_may_differ_in_the_width_of_their_numbers(tmp_path):
    for index, kinds in enumerate(((pa.int32(), pa.string()), (pa.int64(), pa.large_string()), (pa.int8(), pa.string()))):
        table = pa.table([pa.array([index], kinds[0]), pa.array(["a"], kinds[1])], names=["label", "text"])
        pq.write_table(table, tmp_path / f"train-{index:05}-of-00003.parquet")
    assert open_data(".", tmp_path)["train"].to_list() == [{"label": index, "text": "a"} for index in range(3)]


# the hub


def test_data_of_the_hub_have_places_as_well(tmp_path, monkeypatch):
    asked = []
    rows = [{"text": f"row {index}"} for index in range(9)]
    there = DatasetDict({"train_a": Dataset.from_list(rows[:4]), "train_b": Dataset.from_list(rows[4:])})
    monkeypatch.setattr("datasets.load_dataset", lambda *names: asked.append(names) or there)
    data = DataSettings(path="org/name:config")
    found = read_split(data, "train_a+train_b[50%:]", tmp_path)
    for index, text in enumerate(found["text"]):
        row = int(text.split()[1])
        place = f"train_a, row {row} (counted from 0)" if row < 4 else f"train_b, row {row - 4} (counted from 0)"
        assert place_of(found, index, data, "train_a+train_b[50%:]", tmp_path) == place
    assert set(asked) == {("org/name", "config")}
    assert left_out("org/name:config", tmp_path) == []
