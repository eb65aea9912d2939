"""One vector of an image, for search and comparison: what a vision encoder without a head is used for."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prune2deploy.data.splits import column, columns_of
from prune2deploy.data.values import as_text
from prune2deploy.errors import InputError
from prune2deploy.models.family import class_of, family_of, takes_images
from prune2deploy.tasks.base import Metrics, RawSample, Samples
from prune2deploy.tasks.classification import LABEL_NAMES
from prune2deploy.tasks.images import FromImages
from prune2deploy.tasks.neighbours import Neighbours
from prune2deploy.tasks.objectives import Cosine, Joint
from prune2deploy.tasks.rows import first_called
from prune2deploy.tasks.vectors import Vectors

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel

VECTOR = "image_embedding"


class ImageEmbeddings(Vectors, FromImages):
    """Image to one vector, [n, size]: what the encoder puts out for that, or else its first token.

    Labels, if there are any, say which images are of a kind, and need not be classes that the model knows.
    """

    name = "image-embeddings"
    architecture_suffix = "Model"
    needs = " of images, without a head"
    reads_first_token = False
    columns = ("image", "label")
    outputs = (VECTOR,)
    objective = Joint({VECTOR: Cosine()})
    metrics: ClassVar[Metrics] = {"knn": lambda task, samples: Neighbours(VECTOR)}
    misfit = "are these labels of what is to be seen?"

    @classmethod
    def is_for(cls, config: "PretrainedConfig") -> bool:
        """See Task."""
        return not family_of(config).heads.get(class_of(config), "-") and takes_images(config)

    @classmethod
    def guess_columns(cls, features: dict[str, object], given: dict[str, str], where: str) -> dict[str, str]:
        """See Task."""
        label = given.get("label", first_called(LABEL_NAMES, features))
        return {"image": cls.guess_image(features, given, where), **({"label": label} if label else {})}

    def samples_of(self, rows: "Dataset", split: str, judged: bool = False) -> Samples:
        """See FromRows."""
        return self.make_samples(rows, self._labels(rows, split, judged), split)

    def _labels(self, rows: "Dataset", split: str, required: bool) -> np.ndarray | None:
        """A number for each label, [n]; None where the project names none, and, unless `required`, where none are."""
        name = self.data.columns.get("label")
        if not name or (name not in columns_of(rows) and not required):
            return None
        name = column(rows, "label", self.data.columns, self.data.path, split)
        texts = [as_text(value) or "" for value in rows[name][:]]
        if (missing := next((row for row, text in enumerate(texts) if not text), None)) is not None:
            raise InputError(
                f"data {self.data.path!r}, {self.placed(rows, missing, split)}: no {name!r}; leave the row out, or do "
                "without labels (`init --unlabelled`)"
            )
        return np.unique(texts, return_inverse=True)[1]

    def said(self, model: "PreTrainedModel", inputs: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
        """See Task."""
        return {VECTOR: own_vector(model(**inputs))}

    def outside(self, model: "PreTrainedModel | None" = None) -> Callable[[RawSample], np.ndarray]:
        """See Task: what `pipeline("image-feature-extraction")` makes its answer of."""
        from transformers import pipeline

        extract = pipeline(
            "image-feature-extraction", model=model or self.anew(), image_processor=self.processor, device="cpu"
        )

        def answer(sample: RawSample) -> np.ndarray:
            with self.file_of(sample) as file:
                return own_vector(extract.forward(extract.preprocess(file)))[0].numpy()

        return answer


def own_vector(returned: Any) -> "torch.Tensor":
    """The vector of each image among what an encoder returns, [n, size]."""
    for name in ("image_embeds", "pooler_output"):
        if returned.get(name) is not None:
            return returned[name].flatten(1)
    return returned["last_hidden_state"][:, 0]
