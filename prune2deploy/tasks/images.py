"""Images as pixels: what all tasks on images share."""

import functools
import hashlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prune2deploy.config import WorkloadPoint
from prune2deploy.data.image_columns import as_images
from prune2deploy.data.splits import column, read_split
from prune2deploy.errors import InputError, NotServableError, reason_of
from prune2deploy.files import pretty_json, write_text
from prune2deploy.models.image_processor import image_shape, load_processor
from prune2deploy.tasks.base import LARGEST_BATCH, Arrays, Batch, RawSample, Samples
from prune2deploy.tasks.odd_images import odd_images
from prune2deploy.tasks.rows import FromRows, first_called

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig

RAW_NAME = "IMAGE"
SETTINGS_FILES = ("preprocessor_config.json", "processor_config.json")
IMAGE_NAMES = ("image", "img", "pixel_values")


class ImageSamples(Samples):
    """Images, decoded and preprocessed when a batch needs them: thousands would not fit into memory.

    `rows`, of `split`, have images that are not decoded.
    """

    labels: np.ndarray | None

    def __init__(self, task: "FromImages", rows: "Dataset", split: str, labels: np.ndarray | None):
        self.task = task
        self.processor = task.processor
        self.rows = rows
        self.split = split
        self.labels = labels

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, indices: list[int]) -> "ImageSamples":
        """See Samples."""
        labels = None if self.labels is None else self.labels[indices]
        return ImageSamples(self.task, self.rows.select(indices), self.split, labels)

    def digest(self) -> str:
        """See Samples."""
        digest = hashlib.sha256(str(self.processor).encode())
        for index in range(len(self)):
            digest.update(self.file(index))
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def file(self, index: int) -> bytes:
        """The encoded image at `index`."""
        image = self.rows[index][self.task.data.columns["image"]]
        return image["bytes"] or Path(image["path"]).read_bytes()

    def batch(self, indices: list[int]) -> Batch:
        """See Samples; raises InputError, naming the file, for an image that cannot be decoded."""
        pixels = np.stack([self._pixels(index) for index in indices])
        labels = None if self.labels is None else self.labels[indices]
        return Batch({"pixel_values": pixels}, labels, None)

    def _pixels(self, index: int) -> np.ndarray:
        try:
            return self.task.pixels(self.file(index))
        except Exception as error:  # PIL raises many kinds for a broken file
            place = self.task.placed(self.rows, index, self.split)
            raise InputError(f"data {self.task.data.path!r}, {place}: {reason_of(error)}") from None


class FromImages(FromRows):
    """Samples are images."""

    served = "image"
    requires = ("numpy", "pillow")

    @staticmethod
    def guess_image(features: dict[str, object], given: dict[str, str], where: str) -> str:
        """The column that holds the image; raises InputError where none is called so."""
        image = given.get("image") or first_called(IMAGE_NAMES, features)
        if image is None:
            has = ", ".join(features)
            raise InputError(f"data {where!r}: which column is the image? Name it with --image; it has: {has}")
        return image

    @classmethod
    def default_point(cls, config: "PretrainedConfig") -> WorkloadPoint:
        """One image."""
        return WorkloadPoint(batch=1, seq_len=None, weight=1.0)

    @property
    def settings_file(self) -> Path:
        """What says how images are processed."""
        found = (path for name in SETTINGS_FILES if (path := self.model_dir / name).is_file())
        return next(found, self.model_dir / SETTINGS_FILES[0])

    @functools.cached_property
    def processor(self) -> Any:
        """The model's own image processor; raises InputError where there is none, or images are not in colour."""
        if self.shape[0] != 3:
            raise InputError(
                f"{self.model_dir}: num_channels is {self.shape[0]}, and transformers' pipeline, like our "
                "servers, makes red, green and blue of every image: only 3 channels are supported"
            )
        if not self.settings_file.is_file():
            raise InputError(
                f"{self.model_dir}: no preprocessor_config.json, so nothing says how images are resized and normalised; "
                "copy it from the model that this one was fine-tuned from"
            )
        try:
            return load_processor(self.model_dir)
        except Exception as error:  # whatever a broken file makes its parser raise
            raise InputError(f"{self.settings_file}: {reason_of(error)}") from None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the model takes."""
        return image_shape(self.config)

    def check_point(self, point: WorkloadPoint) -> None:
        """See Task."""
        if point.seq_len is not None:
            raise InputError(f"workload {point}: an image model fixes its sequence length; leave --seq-len out")

    def make_samples(self, rows: "Dataset", labels: np.ndarray | None, split: str) -> Samples:
        """Of `rows`, their labels, and the split they are of."""
        return ImageSamples(self, self._undecoded(rows, split), split, labels)

    def _undecoded(self, rows: "Dataset", split: str) -> "Dataset":
        """`rows`, of `split`, with the images as they lie in their files."""
        import datasets

        name = column(rows, "image", self.data.columns, self.data.path, split)
        images = as_images(rows, name, self.data, split, self.root)
        return images.cast_column(name, datasets.Image(decode=False))

    def pixels(self, data: bytes) -> np.ndarray:
        """The encoded image `data` as the model takes it, [channels, height, width]; raises ValueError for what is none."""
        from PIL import Image, UnidentifiedImageError
        from transformers.image_utils import load_image

        try:
            image = load_image(Image.open(io.BytesIO(data)))  # turned as its EXIF says, in red, green and blue
        except Exception as error:  # PIL raises many kinds for a broken file
            said = "no kind of image that Pillow knows" if isinstance(error, UnidentifiedImageError) else reason_of(error)
            raise ValueError(f"not a readable image: {said}; mend it, or leave it out") from None
        pixels = self.processor(image, return_tensors="np")["pixel_values"][0].astype(np.float32)
        if pixels.shape != self.shape:
            made, wanted = (" × ".join(map(str, shape[1:])) for shape in (pixels.shape, self.shape))
            raise ValueError(
                f"{self.settings_file.name} makes {made} pixels of this image, and the model takes {wanted}: mend its size"
            )
        return pixels

    def synthetic_inputs(self, batch: int, seq_len: int | None) -> Arrays:
        """One smooth gradient in the range of normalised pixels, `batch` times."""
        image = np.linspace(-2, 2, int(np.prod(self.shape)), dtype=np.float32).reshape(1, *self.shape)
        return {"pixel_values": np.repeat(image, batch, axis=0)}

    def timing_inputs(self, batch: int, seq_len: int | None) -> Arrays:
        """The same: images have no padding."""
        return self.synthetic_inputs(batch, seq_len)

    def workload_inputs(self, samples: Samples, point: WorkloadPoint) -> Arrays:
        """The first images of the split, repeated where there are too few."""
        return samples.batch([index % len(samples) for index in range(point.batch)]).inputs

    def dynamic_axes(self) -> dict[str, dict[int, str]]:
        """See Task."""
        return {"pixel_values": {0: "batch"}}

    def axis_limits(self) -> dict[str, int]:
        """See Task."""
        return {"batch": LARGEST_BATCH}

    def raw(self, count: int) -> dict[str, list[bytes]]:
        """See Task: the files as they are."""
        rows = read_split(self.data, self.data.evaluation, self.root)
        images = ImageSamples(self, self._undecoded(rows, self.data.evaluation), self.data.evaluation, None)
        return {RAW_NAME: [images.file(index) for index in range(min(count, len(images)))]}

    def odd(self) -> dict[str, RawSample]:
        """See Task."""
        return {name: {RAW_NAME: data} for name, data in odd_images(self.raw(1)[RAW_NAME][0]).items()}

    def file_of(self, sample: RawSample) -> AbstractContextManager[str]:
        """The name of a file with the image, as pipelines take it, while it is open."""
        return written(sample[RAW_NAME])

    def write_preprocessing(self, directory: Path, workload: Sequence[WorkloadPoint]) -> None:
        """See Task: the processor's settings, for those of its steps that we do on a server."""
        said = self.processor.to_dict()
        done = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}
        if other := sorted(key for key, value in said.items() if key.startswith("do_") and value and key not in done):
            raise NotServableError(f"{self.settings_file}: a server does not do {other[0]} for you")
        channels = self.shape[0]
        size = self._edges(said.get("size")) if said.get("do_resize") else None
        crop = self._edges(said.get("crop_size")) if said.get("do_center_crop") else None
        settings = {
            "resize": size,
            "resample": self._filter(said.get("resample")),
            "crop": crop * 2 if crop and len(crop) == 1 else crop,
            "scale": said["rescale_factor"] if said.get("do_rescale") else 1.0,
            "mean": said["image_mean"] if said.get("do_normalize") else [0.0] * channels,
            "std": said["image_std"] if said.get("do_normalize") else [1.0] * channels,
        }
        if said.get("do_convert_rgb"):
            settings["on_white"] = True
        if crop is None and (size is None or len(size) == 1):  # what comes out depends on what comes in
            settings["only"] = list(self.shape[1:])
        write_text(directory / "preprocessing.json", pretty_json(settings) + "\n")

    def _filter(self, said: Any) -> int | None:
        """The number of Pillow's filter; the processor does not understand its name, and takes another filter."""
        if isinstance(said, str):
            raise NotServableError(f"{self.settings_file}: resample is {said!r}; give Pillow's number of the filter")
        return None if said is None else int(said)

    def _edges(self, size: dict[str, int] | None) -> list[int]:
        """A processor's size as height and width, or as the shorter edge alone."""
        named = {key: value for key, value in (size or {}).items() if value is not None}
        if set(named) == {"height", "width"}:
            return [named["height"], named["width"]]
        if set(named) == {"shortest_edge"}:
            return [named["shortest_edge"]]
        raise NotServableError(f"{self.settings_file}: a server does not resize to {named or 'nothing'}")


@contextmanager
def written(data: bytes) -> Iterator[str]:
    """A file with `data` in it, by its name, while it is open."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.name
