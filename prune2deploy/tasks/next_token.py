"""Language models: after every token of a text, which one comes next."""

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from prune2deploy.errors import InputError
from prune2deploy.tasks.base import LOGITS, Arrays, Labels, Metrics, RawSample, Run, Samples
from prune2deploy.tasks.metrics import Accuracy
from prune2deploy.tasks.objectives import IGNORED, Categorical, Joint, Outputs
from prune2deploy.tasks.texts import RAW_NAMES, FromTexts, TextSamples, single_text

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel


class NextToken(FromTexts):
    """Text without labels; logits [n, positions, vocabulary]. Nothing is kept from one call of the model to the next."""

    name = "next-token"
    architecture_suffix = "ForCausalLM"
    reads_first_token = False
    columns = ("text",)
    cut_to = 1024  # documents are long, and models take more than anybody wants to wait for
    outputs = (LOGITS,)
    objective = Joint({LOGITS: Categorical(per_position=True)})
    metrics: ClassVar[Metrics] = {"accuracy": lambda task, samples: Accuracy(LOGITS, per_position=True)}
    misfit = "is it text of another kind, or a model that has learnt little?"
    least_of_own = 0.0  # labels are the data itself, and a good model is right about every third token

    @classmethod
    def guess_columns(cls, features: dict[str, object], given: dict[str, str], where: str) -> dict[str, str]:
        """See Task."""
        return {"text": given.get("text") or single_text(features, where)}

    def rows(self, split: str) -> "Dataset":
        """See FromRows: without those whose text is empty, as many lines of a corpus are."""
        rows = super().rows(split)
        [texts] = FromTexts.texts(self, rows, split)
        found = [row for row, text in enumerate(texts) if text.strip()]
        if not found:
            raise InputError(f"data {self.data.path!r}: all texts of the split {split!r} are empty: give others")
        return rows if len(found) == len(texts) else rows.select(found)

    def samples_of(self, rows: "Dataset", split: str, judged: bool = False) -> Samples:
        """See FromRows; the label of a token is the one behind it, and the last one has none."""
        encoded = self.encoded(rows, split)
        labels = [np.asarray([*ids[1:], IGNORED]) for ids in encoded["input_ids"]]
        for row, ids in enumerate(encoded["input_ids"]):
            if not ids:
                where = self.placed(rows, row, split)
                raise InputError(f"data {self.data.path!r}, {where}: the tokenizer leaves nothing of the text; leave it out")
        if all(len(each) < 2 for each in labels):
            raise InputError(f"data {self.data.path!r}: no text of the split {split!r} has two tokens: give longer ones")
        return TextSamples(encoded, labels, self.padding, self.config.vocab_size)

    def predictions(self, outputs: Outputs) -> np.ndarray:
        """The likeliest next token at each position."""
        return outputs[LOGITS].values.argmax(-1)

    def constant(self, labels: Labels) -> Run:
        """See Task: the most frequent token, always."""
        known = np.concatenate(list(labels))
        answer = np.zeros(self.config.vocab_size, dtype=np.float32)
        answer[np.bincount(known[known != IGNORED]).argmax()] = 1

        def run(inputs: Arrays) -> Arrays:
            return {LOGITS: np.broadcast_to(answer, (*inputs["input_ids"].shape, len(answer)))}

        return run

    def outside(self, model: "PreTrainedModel | None" = None) -> Callable[[RawSample], np.ndarray]:
        """See Task: [positions, vocabulary], of the model's own class and the tokenizer; a pipeline gives texts only."""
        import torch

        tokenizer, cut = self.cutting()
        predict = model or self.anew()

        def answer(sample: RawSample) -> np.ndarray:
            encoded = tokenizer(sample[RAW_NAMES[0]].decode(), return_tensors="pt", **cut)
            with torch.no_grad():
                return predict(**encoded).logits[0].numpy()

        return answer
