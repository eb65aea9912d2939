"""Image folders: a folder a split, labels from the names of folders or from files that say what is in the images."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2deploy.data.file_kinds import check_file, is_document, is_image
from prune2deploy.data.image_metadata import is_metadata, said_in
from prune2deploy.data.json_rows import column_of
from prune2deploy.data.split_names import SPLIT_FOLDERS, kind_of, split_name_of
from prune2deploy.data.walking import entries_of, walk, walk_folders
from prune2deploy.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

IMAGE, LABEL = "image", "label"


@dataclass
class ImageSplit:
    """The images of one split in order, and what is said of each; nothing where only folders say it, or nothing does."""

    folder: Path
    images: list[Path] = field(default_factory=list)
    said: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class ImageFolder:
    """The splits of an image folder; `left_out` names files that are no part of it; `labels`: of the folders, sorted."""

    root: Path
    splits: dict[str, ImageSplit]
    left_out: list[str]
    labels: list[str] = field(default_factory=list)

    def split_of(self, path: Path) -> ImageSplit | None:
        """The split in whose folder `path` lies."""
        if "train" in self.splits and self.splits["train"].folder == self.root:
            return self.splits["train"]
        try:
            return self.splits.get(split_name_of(path.relative_to(self.root).parts[0]))
        except ValueError:  # it lies elsewhere
            return None


def image_folder(root: Path) -> ImageFolder:
    """The image folder at `root`; raises InputError where it holds no images, or they are not as they are said to be."""
    root = _inner(root)
    files = list(walk(root))
    images = [path for path in files if is_image(path)]
    metadata = [path for path in files if is_metadata(path)]
    taken = {*images, *metadata}
    others = [path for path in files if path not in taken and not is_document(path) and path.suffix.lower() != ".txt"]
    left_out = [str(path.relative_to(root)) for path in others]
    if not images:
        raise InputError(f"{root}: no data files and no images here{_instead(root, files, left_out)}")
    for path in (*images, *metadata):
        check_file(path)
    _check_folders(root)
    found = ImageFolder(root, _splits(root, images, metadata), left_out)
    if metadata:
        _take_what_is_said(found, images, metadata)
    else:
        _take_all(found, images)
        found.labels = sorted({label for split in found.splits.values() for label in _folder_labels(split)})
    return found


def _instead(root: Path, files: list[Path], left_out: list[str]) -> str:
    """What lies at `root` in place of data, and what to do."""
    if texts := [str(path.relative_to(root)) for path in files if path.suffix.lower() == ".txt" and not is_document(path)]:
        return (
            f", but {len(texts)} text file{'s' if len(texts) > 1 else ''}, such as {texts[0]}; write them as rows, with "
            "their labels, into one jsonl or csv file a split"
        )
    return f"; what is there is not read: {', '.join(left_out[:3])}" if left_out else ""


def _check_folders(root: Path) -> None:
    """Raise InputError where a folder is called as an image is and holds none: it stands where one should."""
    for place, files in walk_folders(root):
        folder = Path(place)
        if folder != root and is_image(folder) and not any(is_image(folder / name) for name in files):
            raise InputError(f"{folder}: is a folder, though it is called as an image; rename or remove it")


def _splits(root: Path, images: list[Path], metadata: list[Path]) -> dict[str, ImageSplit]:
    """The splits by their names, without images yet."""
    splits: dict[str, ImageSplit] = {}
    for folder in _split_folders(root, images, metadata):
        name = "train" if folder == root else split_name_of(folder.name)
        if name in splits:
            raise InputError(f"{root}: {splits[name].folder.name} and {folder.name} are both split {name!r}; rename one")
        splits[name] = ImageSplit(folder)
    return splits


def _take_all(found: ImageFolder, images: list[Path]) -> None:
    outside: list[Path] = []
    for path in images:
        split = found.split_of(path)
        (outside if split is None else split.images).append(path)
    _leave_out(found, outside, "in no folder of a split")


def _take_what_is_said(found: ImageFolder, images: list[Path], metadata: list[Path]) -> None:
    """Give each image that a metadata file names to the split of the metadata file, or else to that of its own folder."""
    named: set[Path] = set()
    for file in metadata:
        for image, row, place in said_in(file):
            split = found.split_of(file) or found.split_of(image)
            if split is None:
                raise InputError(f"{place()}: names an image in no folder of a split; put both into one")
            if image in named:
                raise InputError(f"{place()}: names an image that another row names, too; keep one row an image")
            if IMAGE in row:
                raise InputError(f"{file}: has a column {IMAGE!r}, as the images themselves are called; rename it")
            named.add(image)
            split.images.append(image)
            split.said.append(row)
    _leave_out(found, [path for path in images if path not in named], "no row in a metadata file")


def _leave_out(found: ImageFolder, images: list[Path], reason: str) -> None:
    if images:
        more = f" and {len(images) - 1} more" if len(images) > 1 else ""
        found.left_out.append(f"{images[0].relative_to(found.root)}{more}: {reason}")


def image_rows(folder: ImageFolder, name: str) -> "Dataset":
    """The rows of split `name`: `image`, and what is said of it."""
    import datasets
    import pyarrow as pa

    split = folder.splits[name]
    columns = {IMAGE: pa.array([str(path) for path in split.images], pa.string())}
    for key in dict.fromkeys(key for row in split.said for key in row):
        columns[key] = column_of([row.get(key) for row in split.said])
    labels = [] if split.said else _folder_labels(split)
    if labels:
        numbers = {label: number for number, label in enumerate(folder.labels)}
        columns[LABEL] = pa.array([numbers[label] for label in labels])
    rows = datasets.Dataset(pa.table(columns)).cast_column(IMAGE, datasets.Image())
    return rows.cast_column(LABEL, datasets.ClassLabel(names=folder.labels)) if labels else rows


def _inner(root: Path) -> Path:
    """`root`, or the folder around the splits where `root` holds nothing but that, however deep."""
    place, around = root, {root.resolve()}
    while True:
        folders = [path for path in entries_of(place) if path.is_dir()]
        if any(path.name.lower() in SPLIT_FOLDERS for path in folders):
            return place
        files = [path for path in entries_of(place) if is_image(path) or is_metadata(path)]
        if len(folders) != 1 or files or kind_of(folders[0].name) or folders[0].resolve() in around:
            return root
        place = folders[0]
        around.add(place.resolve())


def _split_folders(root: Path, images: list[Path], metadata: list[Path]) -> list[Path]:
    """The folders that are splits, by their names; `root` alone where there are none, or where they are names of classes.

    A class may be called `train` or `bullet_train`: next to classes, a folder that holds nothing but images is one.
    """
    flat: dict[Path, bool] = {}
    described = set(metadata)
    for path in (*images, *metadata):
        first, *rest = path.relative_to(root).parts
        if rest:
            flat[root / first] = flat.get(root / first, True) and len(rest) == 1 and path not in described
    named = [
        folder for folder, is_flat in flat.items()
        if folder.name.lower() in SPLIT_FOLDERS or (kind_of(folder.name) and not is_flat)
    ]  # fmt: skip
    if len(named) < len(flat) and all(flat[folder] for folder in named):
        return [root]
    return named or [root]


def _folder_labels(split: ImageSplit) -> list[str]:
    """The label of each image of a split, the name of its folder; none where all images lie in the folder of the split."""
    folders = [path.parent.relative_to(split.folder) for path in split.images]
    depths = {len(folder.parts) for folder in folders}
    if depths == {0}:
        return []
    if len(depths) > 1:
        raise InputError(
            f"{split.folder}: images lie in folders of different depths ({', '.join(sorted(map(str, set(folders)))[:3])}), "
            "so their names are no labels; put them into one folder a class, or add a metadata.csv"
        )
    by_name: dict[str, Path] = {}
    for folder in folders:
        if (other := by_name.setdefault(folder.name, folder)) != folder:
            raise InputError(f"{split.folder}: {other} and {folder} end alike, so their names are no labels; rename one")
    return [folder.name for folder in folders]
