"""Semantic segmentation: a class for every place of an image."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from prune2deploy.data.image_columns import as_images
from prune2deploy.data.splits import column, columns_of
from prune2deploy.errors import InputError, reason_of
from prune2deploy.tasks.base import LOGITS, Arrays, Labels, Metrics, RawSample, Run, Samples
from prune2deploy.tasks.classification import label_lines
from prune2deploy.tasks.images import FromImages, ImageSamples
from prune2deploy.tasks.mean_iou import MeanIou
from prune2deploy.tasks.objectives import IGNORED, Categorical, Joint, Outputs
from prune2deploy.tasks.rows import first_called

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from PIL.Image import Image
    from transformers import PreTrainedModel

MAPS = ("label", "labels", "annotation", "mask", "segmentation_mask", "segmentation_map")
NOTHING = 255  # of a map: a place that does not count
STRIDE = 4  # pixels of the image that a place of the outputs is wide, in SegFormer


class MappedSamples(ImageSamples):
    """Images, each with the map of its classes. `positions`: of the outputs."""

    def __init__(
        self, task: "Segmentation", rows: "Dataset", split: str, labels: np.ndarray | None, positions: int
    ):
        super().__init__(task, rows, split, labels)
        self.positions, self.outputs_each = positions, task.config.num_labels

    def select(self, indices: list[int]) -> "MappedSamples":
        """See Samples."""
        labels = None if self.labels is None else self.labels[indices]
        task = self.task
        assert isinstance(task, Segmentation)
        return MappedSamples(task, self.rows.select(indices), self.split, labels, self.positions)

    def tokens(self, index: int) -> int:
        """See Samples."""
        return self.positions


class Segmentation(FromImages):
    """Image to a class at every place; logits [n, places, classes], row after row of the model's own coarse grid."""

    name = "semantic-segmentation"
    architecture_suffix = "ForSemanticSegmentation"
    reads_first_token = False
    columns = ("image", "label")
    outputs = (LOGITS,)
    objective = Joint({LOGITS: Categorical(per_position=True)})
    metrics: ClassVar[Metrics] = {"miou": lambda task, samples: MeanIou(LOGITS, task.config.num_labels, task.shape[1:])}
    least_of_own = 0.25

    @classmethod
    def guess_columns(cls, features: dict[str, object], given: dict[str, str], where: str) -> dict[str, str]:
        """See Task."""
        label = given.get("label", first_called(MAPS, features))
        if label is None:
            raise InputError(
                f"data {where!r}: which column has the maps of classes? Name it with --label, or say --unlabelled; it has: "
                f"{', '.join(features)}"
            )
        return {"image": cls.guess_image(features, given, where), "label": label}

    def samples_of(self, rows: "Dataset", split: str, judged: bool = False) -> Samples:
        """See FromRows."""
        maps = self._maps(rows, split, judged)
        height, width = self.shape[1:]
        return MappedSamples(self, self._undecoded(rows, split), split, maps, -(-height // STRIDE) * -(-width // STRIDE))

    def _maps(self, rows: "Dataset", split: str, required: bool) -> np.ndarray | None:
        """Classes [n, height, width], int16, as large as what the model takes, and `IGNORED` where none counts.

        None where the project says that there are none, and, unless `required`, where there are none.
        """
        import datasets

        name = self.data.columns.get("label")
        if not name or (name not in columns_of(rows) and not required):
            return None
        name = column(rows, "label", self.data.columns, self.data.path, split)
        images = as_images(rows, name, self.data, split, self.root).cast_column(name, datasets.Image(decode=False))
        found = np.empty((len(rows), *self.shape[1:]), dtype=np.int16)
        for row, stored in enumerate(images[name]):
            data = stored["bytes"] or Path(stored["path"]).read_bytes()
            try:
                found[row] = self._classes(data)
            except ValueError as error:
                raise InputError(f"data {self.data.path!r}, {self.placed(rows, row, split)}: {error}") from None
        return found

    def _classes(self, data: bytes) -> np.ndarray:
        """[height, width] of one encoded map; raises ValueError for what is none."""
        from PIL import Image, UnidentifiedImageError

        try:
            image = Image.open(io.BytesIO(data))
            classes = np.asarray(_resized(image, self.shape[1:]))
        except Exception as error:  # PIL raises many kinds for a broken file
            said = "no kind of image that Pillow knows" if isinstance(error, UnidentifiedImageError) else reason_of(error)
            raise ValueError(f"not a readable map of classes: {said}") from None
        if classes.ndim != 2:
            raise ValueError(f"the map of classes is an image of {image.mode}; give one of numbers (L, P or I)")
        classes = classes.astype(np.int64)
        if getattr(self.processor, "do_reduce_labels", False):  # 0 is what does not count, and classes begin at 1
            classes = np.where(classes == 0, NOTHING, classes - 1)
        counted = classes[classes != NOTHING]
        if len(counted) and counted.max() >= self.config.num_labels:
            raise ValueError(f"the map has class {counted.max()}, and the model knows {self.config.num_labels}")
        return np.where(classes == NOTHING, IGNORED, classes)

    def said(self, model: "PreTrainedModel", inputs: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
        """See Task."""
        return {LOGITS: _by_place(model(**inputs).logits)}

    def targets(self, labels: np.ndarray) -> "dict[str, torch.Tensor]":
        """See Task: of each place of the grid, the class in the middle of it."""
        import torch

        coarse = labels[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE].reshape(len(labels), -1)
        return {LOGITS: torch.from_numpy(coarse.astype(np.int64))}

    def predictions(self, outputs: Outputs) -> np.ndarray:
        """The likeliest class at each place."""
        return outputs[LOGITS].values.argmax(-1)

    def constant(self, labels: Labels) -> Run:
        """See Task: the most frequent class, everywhere."""
        known = np.asarray(labels)
        answer = np.zeros(self.config.num_labels, dtype=np.float32)
        answer[np.bincount(known[known != IGNORED]).argmax()] = 1
        height, width = self.shape[1:]

        def run(inputs: Arrays) -> Arrays:
            places = -(-height // STRIDE) * -(-width // STRIDE)
            return {LOGITS: np.broadcast_to(answer, (len(inputs["pixel_values"]), places, len(answer)))}

        return run

    def label_names(self) -> list[str]:
        """See Task."""
        return label_lines(self.config, self.model_dir)

    def outside(self, model: "PreTrainedModel | None" = None) -> Callable[[RawSample], np.ndarray]:
        """See Task: what `pipeline("image-segmentation")` makes its answer of."""
        from transformers import pipeline

        segment = pipeline(
            "image-segmentation", model=model or self.anew(), image_processor=self.processor, device="cpu",
            subtask="semantic",
        )  # fmt: skip

        def answer(sample: RawSample) -> np.ndarray:
            with self.file_of(sample) as file:
                given = segment.preprocess(file, subtask="semantic")
                return _by_place(segment.forward(given)["logits"])[0].numpy()

        return answer


def _by_place(logits: "torch.Tensor") -> "torch.Tensor":
    """[n, places, classes] of [n, classes, rows, columns]."""
    return logits.flatten(2).transpose(1, 2)


def _resized(image: "Image", size: tuple[int, ...]) -> "Image":
    """`image` as large as the model takes it, without new colours between old ones."""
    from PIL import Image

    return image.resize((size[1], size[0]), Image.Resampling.NEAREST)


