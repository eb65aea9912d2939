"""Where rows are said to be."""


import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_splits import ROWS, write

from prune2deploy.config import DataSettings
from prune2deploy.data.splits import open_data, place_of, read_split


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
