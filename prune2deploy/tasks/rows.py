"""Tasks whose samples are made of the rows of a calibration and of an evaluation split."""

import copy
from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.data.splits import place_of, read_split
from prune2deploy.tasks.base import Samples, Task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel


def called(name: str, features: dict[str, object]) -> str | None:
    """The column called `name`, or the only one that is called so in other letters (`Text`); None where there is none."""
    alike = [name] if name in features else [each for each in features if each.lower() == name]
    return alike[0] if len(alike) == 1 else None


def first_called(names: Iterable[str], features: dict[str, object]) -> str | None:
    """The column that is called by the first of `names` that one is called by; None where none is."""
    return next((found for name in names if (found := called(name, features))), None)


class FromRows(Task):
    """Reads the splits, and draws from them."""

    together = 1  # samples that a row becomes

    def rows(self, split: str) -> "Dataset":
        """The rows of `split` that become samples."""
        return read_split(self.data, split, self.root)

    @abstractmethod
    def samples_of(self, rows: "Dataset", split: str, judged: bool = False) -> Samples:
        """Samples of `rows`, of `split`; `judged`: to be scored, so that labels that the project names must be there."""

    def calibration(self, count: int, seed: int) -> Samples:
        """See Task."""
        rows, wanted = self.rows(self.data.calibration), self._rows_for(count)
        if len(rows) > wanted:
            rows = rows.select(sorted(self._drawn(rows, wanted, seed)))
        return self.samples_of(rows, self.data.calibration)

    def reserve(self, count: int, seed: int, taken: int, passed: int = 0) -> Samples | None:
        """See Task."""
        rows, before = self.rows(self.data.calibration), self._rows_for(taken)
        if len(rows) <= before:
            return None
        left = np.setdiff1d(np.arange(len(rows)), self._drawn(rows, before, seed))
        first = -(-passed // self.together)
        chosen = np.random.default_rng(seed).permutation(left)[first : first + self._rows_for(count)]
        return self.samples_of(rows.select(sorted(chosen.tolist())), self.data.calibration) if len(chosen) else None

    def evaluation(self) -> Samples:
        """See Task."""
        return self.samples_of(self.rows(self.data.evaluation), self.data.evaluation, judged=True)

    def place(self, index: int) -> str:
        """See Task."""
        row, one = divmod(index, self.together)
        place = self.placed(self.rows(self.data.evaluation), row, self.data.evaluation)
        return place if self.together == 1 else f"{place}, text {one + 1}"

    def placed(self, rows: "Dataset", index: int, split: str) -> str:
        """Where row `index` of `rows`, which are of `split`, comes from."""
        return f"{place_of(rows, index, self.data, split, self.root)} (split {split!r})"

    def _rows_for(self, samples: int) -> int:
        """How many rows become so many samples."""
        return max(1, samples // self.together)

    def _drawn(self, rows: "Dataset", count: int, seed: int) -> list[int]:
        """`count` different rows, each as likely as its size says: statistics are sums over tokens."""
        sizes = self.sizes(rows, self.data.calibration)
        shares = None if sizes is None else sizes / sizes.sum()
        return np.random.default_rng(seed).choice(len(rows), size=count, replace=False, p=shares).tolist()

    def sizes(self, rows: "Dataset", split: str) -> np.ndarray | None:
        """How much each of `rows`, of `split`, has to say, [n], above 0; None where they are all alike."""
        return None

    def anew(self) -> "PreTrainedModel":
        """The model, loaded as anybody would load it, in float32."""
        import torch
        import transformers

        model_class = getattr(transformers, self.config.architectures[0])
        return model_class.from_pretrained(
            self.model_dir, config=copy.deepcopy(self.config), dtype=torch.float32, use_safetensors=True,
            trust_remote_code=False, attn_implementation="eager",
        ).eval()  # fmt: skip
