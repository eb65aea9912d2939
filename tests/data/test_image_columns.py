import io

import datasets
import pytest
import tiny
from PIL import Image

from prune2deploy.config import DataSettings
from prune2deploy.data.image_columns import as_images
from prune2deploy.data.splits import open_data, read_split
from prune2deploy.errors import InputError


def shade(index):
    return (10 * index, 0, 0)


def encoded(index):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), shade(index)).save(stream, "png")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data" / "files").mkdir(parents=True)
    for index in range(6):
        (tmp_path / "data" / "files" / f"{index}.png").write_bytes(encoded(index))
    return tmp_path


def images(root, path, split="train"):
    data = DataSettings(path=path)
    return as_images(read_split(data, split, root), "image", data, split, root)


def refusal(*args):
    with pytest.raises(InputError) as caught:
        images(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def save(folder, values, name="train"):
    rows = [{"image": value, "label": index} for index, value in enumerate(values)]
    datasets.Dataset.from_list(rows).to_parquet(folder / "data" / f"{name}.parquet")


@pytest.mark.parametrize("split", ["train", "train[:50%]", "train[50%:]"])
@pytest.mark.parametrize("kind", ["path", "absolute", "backslash", "bytes", "struct", "named struct", "path struct", "both"])
def test_images_are_those_that_the_column_means(folder, kind, split):
    name = {"backslash": "files\\{}.png", "absolute": f"{folder}/data/files/{{}}.png"}.get(kind, "files/{}.png")
    make = {
        "bytes": encoded,
        "struct": lambda index: {"bytes": encoded(index), "path": None},
        "named struct": lambda index: {"bytes": encoded(index), "path": "gone.png"},
        "path struct": lambda index: {"bytes": None, "path": name.format(index)},
        "both": lambda index: {"bytes": encoded(index) if index % 2 else None, "path": name.format(index)},
    }.get(kind, name.format)
    save(folder, [make(index) for index in range(6)])
    found = images(folder, "data", split)
    assert isinstance(found.features["image"], datasets.Image)
    assert len(found) == (6 if split == "train" else 3)
    for row in found:
        assert row["image"].getpixel((0, 0)) == shade(row["label"])


def test_paths_are_seen_from_the_file_that_holds_them(folder):
    for index in range(2):
        place = folder / "set" / "train" / f"part {index}"
        place.mkdir(parents=True)
        (place / "x.png").write_bytes(encoded(index))
        tiny.write_jsonl(place / "rows.jsonl", [{"image": "x.png"}])
    assert [row["image"].getpixel((0, 0)) for row in images(folder, "set")] == [shade(0), shade(1)]


def test_images_of_datasets_keep_working(folder):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    names = [str(folder / "data" / "files" / f"{index}.png") for index in range(3)]
    rows = datasets.Dataset.from_dict({"image": names, "label": [0, 1, 2]}, features=features)
    rows.to_parquet(folder / "train.parquet")
    rows.save_to_disk(folder / "saved")
    for path in ("train.parquet", "saved"):
        assert [row["image"].getpixel((0, 0)) for row in images(folder, path)] == [shade(index) for index in range(3)]


def test_image_folder_is_left_as_it_is(image_data):
    rows = images(image_data, str(image_data))
    assert rows[4]["image"].size == (24, 20)
    wanted = open_data(str(image_data), image_data)["train"]
    assert [row["image"].tobytes() for row in rows] == [row["image"].tobytes() for row in wanted]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("files/gone.png", "no image 'files/gone.png' in "),
        ("files", "no image 'files' in "),
        ("https://example.com/1.png", "'https://example.com/1.png' is no file here; download the images"),
        ("s3://bucket/1.png", "is no file here"),
        ("", "no image in column 'image'"),
        ("iVBORw0KGgoA" * 1000, "iVBORw0K…' is no path but an image in base64; store bytes"),
        ("data:image/png;base64,iVBORw0KGgoA", "is no path but an image in base64"),
        ("long name " * 500, "…' in "),
        ("a\0b.png", "no image 'a\\x00b.png' in "),
        (None, "no image in column 'image'"),
    ],
)
@pytest.mark.parametrize("split", ["train", "train[:50%]"])
def test_paths_that_are_none(folder, value, problem, split):
    rows = [{"image": f"files/{index}.png"} for index in range(6)]
    rows[2]["image"] = value  # of the first half, which is mixed
    tiny.write_jsonl(folder / "data" / "train.jsonl", rows)
    message = refusal(folder, "data", split)
    assert message.startswith(f"train.jsonl, line 3 (split {split!r}): ")
    assert problem in message


@pytest.mark.parametrize("value", [3, [1, 2], [[1, 2], [3, 4]], {"url": "x"}, True])
def test_column_of_something_else(folder, value):
    save(folder, [value] * 3)
    assert "column 'image' is " in refusal(folder, "data")


@pytest.mark.parametrize("missing", [None, b"", {"bytes": b"", "path": None}, {"bytes": None, "path": ""}])
def test_bytes_that_are_missing(folder, missing):
    is_struct = isinstance(missing, dict)
    save(folder, [{"bytes": encoded(0), "path": None} if is_struct else encoded(0), missing])
    message = refusal(folder, "data")
    assert "train.parquet, row 1 (counted from 0) (split 'train'): no image in column 'image'" in message


def test_path_beside_empty_bytes_is_seen_from_the_data_file(folder, tmp_path, monkeypatch):
    (tmp_path / "elsewhere" / "files").mkdir(parents=True)
    (tmp_path / "elsewhere" / "files" / "2.png").write_bytes(encoded(5))
    monkeypatch.chdir(tmp_path / "elsewhere")
    save(folder, [{"bytes": encoded(1), "path": None}, {"bytes": b"", "path": "files/2.png"}])
    assert [row["image"].getpixel((0, 0)) for row in images(folder, "data")] == [shade(1), shade(2)]


@pytest.mark.parametrize("split", ["train", "train[50%:]"])
def test_structs_with_more_than_an_image(folder, split):
    save(folder, [{"bytes": encoded(index), "path": None, "width": 4} for index in range(3)] + [None])
    assert "no image in column 'image'" in refusal(folder, "data")
    save(folder, [{"width": 4, "path": f"files/{index}.png", "more": {"a": 1}} for index in range(4)])
    found = images(folder, "data", split)
    assert [row["image"].getpixel((0, 0)) for row in found] == [shade(row["label"]) for row in found]
    assert found.column_names == ["image", "label", "__row__"]


def test_link_to_nothing_is_named_as_one(folder):
    (folder / "data" / "files" / "gone.png").symlink_to("nowhere")
    save(folder, ["files/1.png", "files/gone.png"])
    assert "'files/gone.png' is a link to nothing" in refusal(folder, "data")
