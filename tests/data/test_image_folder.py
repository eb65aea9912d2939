import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from PIL import Image

from prune2deploy.data.splits import left_out, open_data
from prune2deploy.errors import InputError


def draw(root, *names):
    """Images of different shades."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (len(list(root.rglob("*"))), 0, 0)).save(root / name)
    return root


def read(root):
    """Of each split, the name of each image as seen from `root`, and its label as text or None."""
    found = {}
    for name, rows in open_data(str(root), root).items():
        paths = [image["path"] for image in rows.cast_column("image", datasets.Image(decode=False))["image"]]
        feature = rows.features.get("label")
        labels = list(rows["label"]) if feature else [None] * len(rows)
        if isinstance(feature, datasets.ClassLabel):
            labels = [feature.names[label] for label in labels]
        found[name] = dict(zip([str(Path(path).relative_to(root)) for path in paths], labels, strict=True))
    return found


def refusal(root):
    with pytest.raises(InputError) as caught:
        read(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folders_are_classes_as_datasets_has_them(tmp_path):
    draw(tmp_path, *(f"{split}/{name}/{index}.png" for split in ("train", "test") for name in ("owl", "Cat", "10", "9")
                     for index in range(3)))  # fmt: skip
    rows = open_data(str(tmp_path), tmp_path)
    for split in ("train", "test"):
        wanted = datasets.load_dataset("imagefolder", data_files={split: f"{tmp_path}/{split}/**"}, split=split)
        assert rows[split].features == wanted.features
        assert rows[split]["label"] == wanted["label"]
        assert [image.getpixel((0, 0)) for image in rows[split]["image"]] == [
            image.getpixel((0, 0)) for image in wanted["image"]
        ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["cat/a.png", "dog/b.png"], {"train": {"cat/a.png": "cat", "dog/b.png": "dog"}}),
        (["a.png", "b.jpg"], {"train": {"a.png": None, "b.jpg": None}}),
        (
            ["training/cat/a.png", "Val/dog/b.png"],
            {"training": {"training/cat/a.png": "cat"}, "Val": {"Val/dog/b.png": "dog"}},
        ),
        (["train_v2/cat/a.PNG", "test_v2/cat/b.png"], {
            "train_v2": {"train_v2/cat/a.PNG": "cat"}, "test_v2": {"test_v2/cat/b.png": "cat"},
        }),
        (["train/a.png", "test/b.png"], {"train": {"train/a.png": None}, "test": {"test/b.png": None}}),
        (["birds/train/owl/a.png", "birds/test/owl/b.png"], {
            "train": {"birds/train/owl/a.png": "owl"}, "test": {"birds/test/owl/b.png": "owl"},
        }),
        (["a/images/train/owl/1.png", "a/images/test/owl/2.png"], {
            "train": {"a/images/train/owl/1.png": "owl"}, "test": {"a/images/test/owl/2.png": "owl"},
        }),
        # classes whose names speak of splits
        (["train/a.png", "plane/b.png"], {"train": {"train/a.png": "train", "plane/b.png": "plane"}}),
        (["bullet_train/a.png", "test_tube/b.png"], {
            "train": {"bullet_train/a.png": "bullet_train", "test_tube/b.png": "test_tube"},
        }),
        (["train/train/a.png", "train/car/b.png"], {"train": {"train/train/a.png": "train", "train/car/b.png": "car"}}),
        (["[x]/a*.png", "{y}/b::c.png"], {"train": {"[x]/a*.png": "[x]", "{y}/b::c.png": "{y}"}}),
    ],
)  # fmt: skip
def test_splits_and_labels(tmp_path, names, expected):
    draw(tmp_path, *names)
    assert read(tmp_path) == expected


def test_classes_are_numbered_over_all_splits(tmp_path):
    draw(tmp_path, "train/b/1.png", "train/c/1.png", "test/a/1.png", "test/b/1.png")
    names = {name: rows.features["label"].names for name, rows in open_data(str(tmp_path), tmp_path).items()}
    assert names == {"train": ["a", "b", "c"], "test": ["a", "b", "c"]}


@pytest.mark.parametrize("split", ["", "train/"])
def test_image_whose_name_speaks_of_a_split_is_an_image_like_any_other(split, tmp_path):
    names = [f"{split}{name}.png" for name in ("bullet_train", "test_tube", "otter")]
    draw(tmp_path, *names)
    rows = [{"file_name": Path(name).name, "label": index} for index, name in enumerate(names)]
    tiny.write_jsonl(tmp_path / split / "metadata.jsonl", rows)
    assert read(tmp_path) == {"train": {name: index for index, name in enumerate(names)}}


ROWS = [{"file_name": "deep/b.png", "label": "owl"}, {"file_name": "a.png", "label": "None"}]


def write(path, rows):
    if path.suffix == ".csv":
        path.write_text("\n".join(",".join(row) for row in (rows[0], *(row.values() for row in rows))))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        tiny.write_jsonl(path, rows)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_metadata_says_what_images_are(tmp_path, suffix):
    draw(tmp_path, "train/a.png", "train/deep/b.png", "test/a.png", "test/deep/b.png")
    for split in ("train", "test"):
        write(tmp_path / split / f"metadata.{suffix}", ROWS)
    assert read(tmp_path)["test"] == {"test/deep/b.png": "owl", "test/a.png": "None"}
    assert list(read(tmp_path)) == ["test", "train"]
    assert left_out(str(tmp_path), tmp_path) == []


def test_metadata_around_the_splits(tmp_path):
    draw(tmp_path, "train/a.png", "test/b.png")
    rows = [{"file_name": "train/a.png", "label": "x"}, {"file_name": "test/b.png", "label": "y"}]
    write(tmp_path / "metadata.csv", rows)
    assert read(tmp_path) == {"test": {"test/b.png": "y"}, "train": {"train/a.png": "x"}}


@pytest.mark.parametrize(
    ("suffix", "place"), [("csv", "metadata.csv, line 3"), ("jsonl", "metadata.jsonl, line 2"), ("parquet", "row 1 (")]
)
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"file_name": "gone.png"}, "names 'gone.png', which is not there"),
        ({"file_name": "./a.png"}, "names an image that another row names, too"),
        ({"file_name": ""}, "names no image; column 'file_name' has to, not label"),
    ],
)
def test_metadata_that_is_wrong(tmp_path, suffix, place, change, problem):
    draw(tmp_path, "a.png", "b.png")
    rows = [{"file_name": "a.png", "label": "x"}, {"file_name": change["file_name"], "label": "y"}]
    write(tmp_path / f"metadata.{suffix}", rows)
    message = refusal(tmp_path)
    assert place in message
    assert problem in message


def test_images_outside_the_folder_of_their_split(tmp_path):
    draw(tmp_path, "all/a.png", "all/b.png")
    for split, name in (("train", "a"), ("test", "b")):
        (tmp_path / split).mkdir()
        write(tmp_path / split / "metadata.csv", [{"file_name": f"../all/{name}.png", "label": "x"}])
    assert read(tmp_path) == {"test": {"all/b.png": "x"}, "train": {"all/a.png": "x"}}


def test_metadata_without_names_of_files(tmp_path):
    draw(tmp_path, "a.png")
    write(tmp_path / "metadata.csv", [{"file": "a.png", "label": "x"}])
    assert "line 2: names no image; column 'file_name' has to, not file, label" in refusal(tmp_path)


def test_what_is_not_read_is_named(tmp_path):
    draw(tmp_path, "train/a.png", "train/b.png", "train/c.png", "stray.png", ".hidden/x.png", "__MACOSX/train/a.png")
    write(tmp_path / "train" / "metadata.csv", [{"file_name": "a.png", "label": "x"}])
    for name in ("train/clip.xyz", "labels.txt", "README.md", "more.zip"):
        (tmp_path / name).touch()
    assert read(tmp_path) == {"train": {"train/a.png": "x"}}
    assert left_out(str(tmp_path), tmp_path) == [
        "more.zip", "train/clip.xyz", "stray.png and 2 more: no row in a metadata file",
    ]  # fmt: skip


def test_images_outside_the_splits_are_named(tmp_path):
    draw(tmp_path, "train/cat/a.png", "test/dog/b.png", "extra/cat/c.png", "stray.png")
    assert read(tmp_path) == {"test": {"test/dog/b.png": "dog"}, "train": {"train/cat/a.png": "cat"}}
    (line,) = left_out(str(tmp_path), tmp_path)
    assert line.endswith(".png and 1 more: in no folder of a split")


def test_folders_that_are_no_labels(tmp_path):
    draw(tmp_path, "a/x/1.png", "b/x/2.png")
    assert "a/x and b/x end alike" in refusal(tmp_path)
    draw(tmp_path, "3.png")
    assert "images lie in folders of different depths" in refusal(tmp_path)


def test_folder_without_anything_to_read(tmp_path):
    assert "no data files and no images here" in refusal(tmp_path)
    (tmp_path / "data.zip").touch()
    assert "what is there is not read: data.zip" in refusal(tmp_path)


def test_image_that_was_replaced_and_one_that_came(tmp_path):
    draw(tmp_path, "cat/a.png", "dog/b.png")
    assert len(read(tmp_path)["train"]) == 2
    Image.new("RGB", (4, 4), "white").save(tmp_path / "cat" / "a.png")
    draw(tmp_path, "cat/c.png")
    rows = open_data(str(tmp_path), tmp_path)["train"]
    assert rows[0]["image"].getpixel((0, 0)) == (255, 255, 255)
    assert len(rows) == 3


def test_description_in_json_of_other_things_is_no_metadata(tmp_path):
    draw(tmp_path, "cat/a.png", "dog/b.png")
    (tmp_path / "dataset_info.json").write_text(json.dumps({"description": "animals"}))
    assert read(tmp_path) == {"train": {"cat/a.png": "cat", "dog/b.png": "dog"}}


SIDE = {
    "classes.json": '["cat", "dog"]', "labels.csv": "id,name\n0,cat\n", "train/annotations.json": "{}",
    "train/cat/notes.jsonl": '{"seen": 1}\n',
}  # fmt: skip


@pytest.mark.parametrize("name", SIDE)
def test_side_files_make_no_data_of_images(tmp_path, name):
    draw(tmp_path, "train/cat/a.png", "test/cat/b.png")
    (tmp_path / name).write_text(SIDE[name])
    assert read(tmp_path) == {"test": {"test/cat/b.png": "cat"}, "train": {"train/cat/a.png": "cat"}}
    assert left_out(str(tmp_path), tmp_path) == [name]


@pytest.mark.parametrize("names", [["train.csv"], ["list.csv"], ["a.csv", "test.csv"]])
def test_files_that_name_images_are_the_data(tmp_path, names):
    draw(tmp_path, "img/a.png", "img/b.png")
    for name in names:
        (tmp_path / name).write_text("image,label\nimg/a.PNG,cat\n")
    assert list(open_data(str(tmp_path), tmp_path)) == [Path(name).stem for name in names]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "cat/2.png: the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "cat/2.png: a pointer of git-lfs in place of"),
        (None, "cat/2.png: links to nowhere, which is not there; download the data again, or remove it"),
        ("folder", "cat/2.png: is a folder, though it is called as an image"),
    ],
)
def test_images_that_are_not_there_as_named(tmp_path, content, problem):
    draw(tmp_path, "cat/1.png", "dog/3.png")
    path = tmp_path / "cat" / "2.png"
    if content is None:
        path.symlink_to("nowhere")
    elif content == "folder":
        path.mkdir()
    else:
        path.write_bytes(content)
    assert problem in refusal(tmp_path)


def test_class_that_is_called_as_an_image(tmp_path):
    draw(tmp_path, "a.png/1.png", "b.png/2.png")
    assert read(tmp_path) == {"train": {"a.png/1.png": "a.png", "b.png/2.png": "b.png"}}


def test_splits_that_would_be_called_alike(tmp_path):
    draw(tmp_path, "train a/cat/1.png", "train_a/cat/2.png")
    assert "train a and train_a are both split 'train_a'; rename one" in refusal(tmp_path)


def test_class_that_is_linked_into_another_split_is_there_twice(tmp_path):
    draw(tmp_path, "train/cat/1.png", "train/dog/2.png", "test/dog/3.png")
    (tmp_path / "test" / "cat").symlink_to("../train/cat")
    (tmp_path / "train" / "dog" / "around").symlink_to("../..")
    assert read(tmp_path) == {
        "test": {"test/cat/1.png": "cat", "test/dog/3.png": "dog"},
        "train": {"train/cat/1.png": "cat", "train/dog/2.png": "dog"},
    }
