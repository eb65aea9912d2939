"""Classification of images."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.tasks.base import RawSample
from prune2deploy.tasks.classification import Classification, guess_label
from prune2deploy.tasks.images import FromImages

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ImageClassification(FromImages, Classification):
    """Image to one label."""

    name = "image-classification"
    architecture_suffix = "ForImageClassification"
    columns = ("image", "label")

    @classmethod
    def guess_columns(cls, features: dict[str, object], given: dict[str, str], where: str) -> dict[str, str]:
        """See Task."""
        return {"image": cls.guess_image(features, given, where), "label": guess_label(features, given, where)}

    def outside(self, model: "PreTrainedModel | None" = None) -> Callable[[RawSample], np.ndarray]:
        """See Task: `pipeline("image-classification")`, with the image processor that computes in pillow, as we do."""
        from transformers import pipeline

        classify = pipeline(self.name, model=model or self.anew(), image_processor=self.processor, device="cpu")

        def answer(sample: RawSample) -> np.ndarray:
            with self.file_of(sample) as file:
                return self.in_order(classify(file, top_k=self.config.num_labels, function_to_apply="none"))

        return answer
