import pytest

from prune2deploy.data.layout import layout_of
from prune2deploy.data.local import LocalData
from prune2deploy.errors import InputError


def lay(root, *names, content="x"):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def splits(root):
    """Names of the files of each split, as seen from `root`."""
    return {name: [str(path.relative_to(root)) for path in files] for name, files in layout_of(root).files.items()}


def refusal(root):
    with pytest.raises(InputError) as caught:
        layout_of(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SHARDS = [f"train-{index:05}-of-00012.parquet" for index in range(12)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train.jsonl", "dev.jsonl"], {"dev": ["dev.jsonl"], "train": ["train.jsonl"]}),
        (["TRAIN.JSONL"], {"TRAIN": ["TRAIN.JSONL"]}),
        (["train.jsonl.gz", "val.ndjson"], {"train": ["train.jsonl.gz"], "val": ["val.ndjson"]}),
        (["my data (1).csv"], {"my_data__1_": ["my data (1).csv"]}),
        (SHARDS[::-1], {"train": SHARDS}),
        (["train-00000-of-00001-0a1b2c.parquet"], {"train": ["train-00000-of-00001-0a1b2c.parquet"]}),
        (["data/train-00000-of-00001.parquet", "README.md"], {"train": ["data/train-00000-of-00001.parquet"]}),
        (["data/train/0000.parquet"], {"train": ["data/train/0000.parquet"]}),
        (
            ["default/train/0000.parquet", "default/train/0001.parquet", "default/validation/0000.parquet"],
            {
                "train": ["default/train/0000.parquet", "default/train/0001.parquet"],
                "validation": ["default/validation/0000.parquet"],
            },
        ),
        (["train/9.jsonl", "train/10.jsonl"], {"train": ["train/9.jsonl", "train/10.jsonl"]}),
        (["train/a/x.jsonl", "train/b/x.jsonl"], {"train": ["train/a/x.jsonl", "train/b/x.jsonl"]}),
        (["Train_v2/x.csv", "test_v2/y.csv"], {"Train_v2": ["Train_v2/x.csv"], "test_v2": ["test_v2/y.csv"]}),
        (  # the folder's name is no reason to calibrate on the test split
            ["training_data/train.csv", "training_data/test.csv"],
            {"train": ["training_data/train.csv"], "test": ["training_data/test.csv"]},
        ),
        (
            ["train/train.csv", "train/val.csv", "test/test.csv"],
            {"test": ["test/test.csv"], "train": ["train/train.csv"], "val": ["train/val.csv"]},
        ),
        (["train-0-of-2.csv", "train-1-of-2.csv"], {"train": ["train-0-of-2.csv", "train-1-of-2.csv"]}),
        (["train-1-of-2.csv", "train-2-of-2.csv"], {"train": ["train-1-of-2.csv", "train-2-of-2.csv"]}),
        (["train.00000-of-00001.csv", "test.csv"], {"test": ["test.csv"], "train": ["train.00000-of-00001.csv"]}),
        (["._train.jsonl", ".cache/x.jsonl", "__MACOSX/train.jsonl", "train.jsonl"], {"train": ["train.jsonl"]}),
        (["config.json", "dataset_infos.json", "train.json"], {"train": ["train.json"]}),
        (["license-plates.csv"], {"license-plates": ["license-plates.csv"]}),
        (["metadata.csv"], {"metadata": ["metadata.csv"]}),  # of no image
    ],
)
def test_files_and_their_splits(tmp_path, names, expected):
    found = splits(lay(tmp_path, *names))
    assert found == expected


def test_one_file_is_all_there_is(tmp_path):
    lay(tmp_path, "validation-00001-of-00002.parquet", "other.csv", "notes.txt")
    found = layout_of(tmp_path / "validation-00001-of-00002.parquet")
    assert found.files == {"train": [tmp_path / "validation-00001-of-00002.parquet"]}
    assert found.left_out == []


def test_what_is_not_read_is_named(tmp_path):
    lay(tmp_path, "train.csv", "test.zip", "train.xlsx", "notes.txt", "raw/a.csv", "raw/deep/b.csv", "old/c.csv",
        "img/a.png", "photo.jpg",
        "README", "README.txt", "LICENSE", "setup.py", ".gitattributes", "dataset_dict.jsonx")  # fmt: skip
    wanted = ["dataset_dict.jsonx", "notes.txt", "test.zip", "train.xlsx", "old/ (1 data file)", "raw/ (2 data files)"]
    assert layout_of(tmp_path).left_out == wanted


def test_what_is_not_read_in_folders_is_named(tmp_path):
    lay(tmp_path, "data/train.csv", "data/test.csv.zip", "raw.tar", "other/x.arrow")
    assert layout_of(tmp_path).left_out == ["raw.tar", "data/test.csv.zip"]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["train-00000-of-00002.parquet"], "train-00001-of-00002.parquet: this shard of split 'train' is missing"),
        (["train/x-00001-of-00002.jsonl", "train/y.jsonl"], "x-00000-of-00002.jsonl: this shard"),
        (["train.csv", "train.csv.gz"], "train.csv and train.csv.gz are both split 'train'"),
        (["train.json", "train.jsonl"], "train.json and train.jsonl are both split 'train'"),
        (["train.parquet", "train-00000-of-00001.parquet"], "are both split 'train'"),
        (["train-00000-of-00001-aa.csv", "train-00000-of-00001-bb.csv"], "are both split 'train'"),
        (["a b.csv", "a_b.csv"], "are both split 'a_b'"),
        (["mnli/train/0.parquet", "sst2/train/0.parquet"], "holds several data sets (mnli, sst2); name the folder of one"),
        (["mnli/train.csv", "sst2/train.csv", "sst2/test.csv"], "holds several data sets (mnli, sst2)"),
        (["en/train.csv", "de/validation.csv"], "holds several data sets (de, en); name the folder of one"),
        (["cola/a.csv", "sst2/b.csv"], "holds several data sets (cola, sst2)"),
        (["data/en/train-00000-of-00001.csv", "data/de/test-00000-of-00001.csv"], "several data sets (data/de, data/en)"),
        (["mnli/train/0.csv", "sst2/test/0.csv"], "holds several data sets (mnli, sst2)"),
        (["train/a.csv", "old/test/b.csv"], "holds several data sets (files outside of them, old)"),
        (["train-00000-of-00003.csv", "train-00001-of-00002.csv", "train-00002-of-00003.csv"],
         "train-00001-of-00002.csv is one of 2 shards of split 'train', and train-00002-of-00003.csv one of 3; keep"),
        (["train-00000-of-00001.csv", "train-00000-of-00002.csv", "train-00001-of-00002.csv"], "one of 1 shards"),
        (["train-00000-of-00001.csv", "train-00001-of-00001.csv"], "train-00001-of-00001.csv: one shard more of split"),
        (["train-0-of-2.csv"], "train-1-of-2.csv: this shard of split 'train' is missing"),
        (["train.00001-of-00002.csv"], "train.00000-of-00002.csv: this shard of split 'train' is missing"),
        (["x/label=pos/part-0.csv", "x/label=neg/part-0.csv"], "the folder label=neg stands for a column, as partitioned"),
        (["train.csv", "dev.jsonl"], "holds files of several kinds (csv, json); keep one, or name one file"),
        (["train/a.csv", "train/b.jsonl"], "holds files of several kinds (csv, json)"),
        (["train/pos/1.txt", "train/neg/2.txt"], "no data files and no images here, but 2 text files, such as train/neg/2"),
    ],
)  # fmt: skip
def test_layouts_that_are_refused(tmp_path, names, problem):
    lay(tmp_path, *names)
    with pytest.raises(InputError) as caught:
        LocalData(tmp_path)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_as_named(tmp_path):
    lay(tmp_path, "train.jsonl")
    (tmp_path / "validation.jsonl").symlink_to("../../blobs/0f3a")
    assert "validation.jsonl: links to ../../blobs/0f3a, which is not there" in refusal(tmp_path)
    (tmp_path / "validation.jsonl").unlink()
    lay(tmp_path, "test.jsonl", content="version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    assert "test.jsonl: a pointer of git-lfs" in refusal(tmp_path)
    lay(tmp_path, "test.jsonl", content="")
    assert "test.jsonl: the file is empty" in refusal(tmp_path)
    assert "the file is empty" in refusal(tmp_path / "test.jsonl")
    (tmp_path / "test.jsonl").unlink()
    (tmp_path / "test.jsonl").symlink_to("test.jsonl")
    assert "test.jsonl: links to test.jsonl, which is not there" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("x.csv", b"PK\x03\x04\x14\0\x06\0", "a zip archive or a spreadsheet"),
        ("x.tsv", b"\x1f\x8b\x08\0", "compressed (.gz)"),
        ("x.jsonl", b"PAR1\x15", "a Parquet file"),
    ],
)
def test_text_by_its_name_alone(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    for place in (tmp_path, tmp_path / name):
        assert f"{name}: is {kind} and not what its name says" in refusal(place)


SETTINGS = {
    "id2label.json": '{"0": "neg", "1": "pos"}', "label_map.json": '{"neg": 0}', "names.json": '["neg", "pos"]',
    "package.json": "{}", "nested.json": '{"label2id": {"a": 0}, "classes": ["a", "b"]}',
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl"])
@pytest.mark.parametrize("folder", ["", "data/"])
def test_settings_beside_data_are_none(tmp_path, suffix, folder):
    lay(tmp_path, f"{folder}train.{suffix}", f"{folder}test.{suffix}")
    for name, content in SETTINGS.items():
        lay(tmp_path, f"{folder}{name}", content=content)
    assert list(splits(tmp_path)) == ["test", "train"]
    assert sorted(layout_of(tmp_path).left_out) == sorted(f"{folder}{name}" for name in SETTINGS)


@pytest.mark.parametrize("content", ['[{"a": 1}]', '{"data": [{"a": 1}]}', '{"a": ["a"], "label": [1]}', "[1, 2"])
def test_rows_beside_data_are_data(tmp_path, content):
    lay(tmp_path, "train.csv")
    lay(tmp_path, "more.json", content=content)
    assert "holds files of several kinds (csv, json)" in refusal(tmp_path)


def test_what_lies_beside_a_saved_data_set_is_named(tmp_path):
    lay(tmp_path, "extra.csv", "old/data.arrow", "train/data.arrow", "README.md")
    lay(tmp_path, "dataset_dict.json", content='{"splits": ["train"]}')
    assert layout_of(tmp_path).left_out == ["extra.csv", "old/"]


def test_links_are_followed_as_the_caches_of_the_hub_need(tmp_path):
    lay(tmp_path, "blobs/0f3a", "snapshots/README.md")
    (tmp_path / "snapshots/data").mkdir()
    (tmp_path / "snapshots/data/train.jsonl").symlink_to("../../blobs/0f3a")
    (tmp_path / "snapshots/again").symlink_to(tmp_path / "snapshots")  # a circle
    assert splits(tmp_path / "snapshots") == {"train": ["data/train.jsonl"]}


def test_folder_that_is_linked_twice_is_there_twice(tmp_path):
    lay(tmp_path, "data/train/a.csv")
    (tmp_path / "data" / "test").symlink_to("train")
    (tmp_path / "data" / "train" / "up").symlink_to("..")
    assert splits(tmp_path) == {"test": ["data/test/a.csv"], "train": ["data/train/a.csv"]}


def test_readers(tmp_path):
    lay(tmp_path, "saved/dataset_dict.json", "images/cat/1.png", "described/metadata.csv", "described/a.png",
        "nested/train/metadata.jsonl", "nested/train/1.png", "one.tsv")  # fmt: skip
    found = {name: layout_of(tmp_path / name).reader for name in ("saved", "images", "described", "nested", "one.tsv")}
    assert found == {"saved": "saved", "images": "images", "described": "images", "nested": "images", "one.tsv": "csv"}
