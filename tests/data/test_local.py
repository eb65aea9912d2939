"""Local data as files hold it now: layouts, names, caches, types."""

import bz2
import gzip
import lzma
import os

import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from test_splits import ROWS, refusal, write

from prune2deploy.config import DataSettings
from prune2deploy.data.splits import left_out, open_data, read_split

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
