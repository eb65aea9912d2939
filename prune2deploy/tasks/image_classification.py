"""Classification of images."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prune2deploy.config import WorkloadPoint
from prune2deploy.errors import InputError
from prune2deploy.files import pretty_json, write_text
from prune2deploy.tasks.base import LARGEST_BATCH, Arrays, Batch, Samples
from prune2deploy.tasks.classification import Classification, guess_label
from prune2deploy.tasks.data import column, read_split

if TYPE_CHECKING:
    from datasets import Dataset

IMAGE_NAMES = ("image", "img", "pixel_values")


class ImageSamples(Samples):
    """Images, decoded and preprocessed when a batch needs them: thousands would not fit into memory."""

    def __init__(self, rows: "Dataset", image_column: str, labels: np.ndarray | None, processor: Any, where: str):
        self.rows = rows
        self.image_column = image_column
        self.labels = labels
        self.processor = processor
        self.where = where

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, indices: list[int]) -> "ImageSamples":
        """See Samples."""
        labels = None if self.labels is None else self.labels[indices]
        return ImageSamples(self.rows.select(indices), self.image_column, labels, self.processor, self.where)

    def digest(self) -> str:
        """See Samples."""
        import datasets

        digest = hashlib.sha256(str(self.processor).encode())
        for row in self.rows.cast_column(self.image_column, datasets.Image(decode=False)):
            image = row[self.image_column]
            digest.update(image["bytes"] or Path(image["path"]).read_bytes())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def batch(self, indices: list[int]) -> Batch:
        """See Samples; raises InputError, naming the row, for an image that cannot be decoded."""
        pixels = np.concatenate([self._pixels(index) for index in indices])
        labels = None if self.labels is None else self.labels[indices]
        return Batch({"pixel_values": pixels}, labels, None)

    def _pixels(self, index: int) -> np.ndarray:
        try:
            image = self.rows[index][self.image_column].convert("RGB")
            return self.processor(image, return_tensors="np")["pixel_values"].astype(np.float32)
        except Exception as error:  # PIL raises many kinds for a broken file
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"data {self.where!r}, row {index}: not a readable image: {reason}") from None


class ImageClassification(Classification):
    """Image to one label."""

    name = "image-classification"
    architecture_suffix = "ForImageClassification"
    columns = ("image", "label")
    served = "image"
    requires = ("numpy", "pillow")

    @classmethod
    def guess_columns(cls, features: dict[str, object], given: dict[str, str], where: str) -> dict[str, str]:
        """See Task."""
        image = given.get("image") or next((name for name in IMAGE_NAMES if name in features), None)
        if image is None:
            has = ", ".join(features)
            raise InputError(f"data {where!r}: which column is the image? Name it with --image; it has: {has}")
        return {"image": image, "label": guess_label(features, given, where)}

    @classmethod
    def default_point(cls) -> WorkloadPoint:
        """One image."""
        return WorkloadPoint(batch=1, seq_len=None, weight=1.0)

    @functools.cached_property
    def processor(self) -> Any:
        """The model's own image processor; raises InputError."""
        from transformers import AutoImageProcessor

        if not (self.model_dir / "preprocessor_config.json").is_file():
            raise InputError(
                f"{self.model_dir}: no preprocessor_config.json, so nothing says how images are resized and normalised; "
                "copy it from the model that this one was fine-tuned from"
            )
        try:
            return AutoImageProcessor.from_pretrained(self.model_dir, backend="pil", trust_remote_code=False)
        except Exception as error:  # whatever a broken file makes its parser raise
            raise InputError(f"{self.model_dir}/preprocessor_config.json: {str(error).splitlines()[0]}") from None

    def check_point(self, point: WorkloadPoint) -> None:
        """See Task."""
        if point.seq_len is not None:
            raise InputError(f"workload {point}: an image model fixes its sequence length; leave --seq-len out")

    def make_samples(self, rows: "Dataset", labels: np.ndarray | None) -> Samples:
        """See Classification."""
        name = column(rows, "image", self.data.columns, self.data.path)
        return ImageSamples(rows, name, labels, self.processor, self.data.path)

    def synthetic_inputs(self, batch: int, seq_len: int | None) -> Arrays:
        """Smooth gradients in the range of normalised pixels."""
        size = self.config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        ramp = np.linspace(-2, 2, batch * self.config.num_channels * height * width, dtype=np.float32)
        return {"pixel_values": ramp.reshape(batch, self.config.num_channels, height, width)}

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
        import datasets

        rows = read_split(self.data, self.data.evaluation, self.root)
        name = column(rows, "image", self.data.columns, self.data.path)
        rows = rows.select(range(min(count, len(rows)))).cast_column(name, datasets.Image(decode=False))
        return {"IMAGE": [row[name]["bytes"] or Path(row[name]["path"]).read_bytes() for row in rows]}

    def write_preprocessing(self, directory: Path, workload: Sequence[WorkloadPoint]) -> None:
        """See Task: the processor's settings, for those of its steps that we do on a server."""
        said = self.processor.to_dict()
        done = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}
        if other := sorted(key for key, value in said.items() if key.startswith("do_") and value and key not in done):
            raise InputError(f"{self.model_dir}/preprocessor_config.json: a server does not do {other[0]} for you; leave "
                             "out --with-tokenizer, and send pixels")  # fmt: skip
        channels = self.config.num_channels
        settings = {
            "resize": edges(said.get("size")) if said.get("do_resize") else None,
            "resample": said.get("resample"),
            "crop": edges(said.get("crop_size")) if said.get("do_center_crop") else None,
            "scale": said["rescale_factor"] if said.get("do_rescale") else 1.0,
            "mean": said["image_mean"] if said.get("do_normalize") else [0.0] * channels,
            "std": said["image_std"] if said.get("do_normalize") else [1.0] * channels,
        }
        write_text(directory / "preprocessing.json", pretty_json(settings) + "\n")


def edges(size: dict[str, int] | None) -> list[int]:
    """A processor's size as height and width, or as the shorter edge alone."""
    named = {key: value for key, value in (size or {}).items() if value is not None}
    if set(named) == {"height", "width"}:
        return [named["height"], named["width"]]
    if set(named) == {"shortest_edge"}:
        return [named["shortest_edge"]]
    raise InputError(f"preprocessor_config.json: a server does not resize to {named}; leave out --with-tokenizer")
