"""Logits of tokens to entities and where they are. Copied into packages as `model.py`, beside `labels.txt`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """See https://github.com/triton-inference-server/python_backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the names, one a line."""
        file = Path(args["model_repository"]) / args["model_version"] / "labels.txt"
        self.labels = file.read_bytes().decode("utf-8").split("\n")[:-1]

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer a request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        """The entities of each row, as a JSON list of `entity_group`, `score`, `start` and `end`."""
        logits = pb_utils.get_input_tensor_by_name(request, "LOGITS").as_numpy()
        offsets = pb_utils.get_input_tensor_by_name(request, "OFFSETS").as_numpy()
        rows = [[json.dumps(entities(*row, self.labels))] for row in zip(logits, offsets, strict=True)]
        return pb_utils.InferenceResponse([pb_utils.Tensor("ENTITIES", np.array(rows, dtype=object))])


def entities(logits: np.ndarray, offsets: np.ndarray, labels: list[str]) -> list[dict[str, Any]]:
    """What transformers' pipeline gives with `aggregation_strategy="simple"`: neighbours of one label are one entity.

    `logits`: [tokens, labels]; `offsets`: [tokens, 2], -1 where a token is none of the text.
    """
    real = offsets[:, 0] >= 0
    logits, offsets = logits[real], offsets[real]
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    groups: list[dict[str, Any]] = []
    before = None
    for row, (start, end) in zip(shares, offsets.tolist(), strict=True):
        best = int(row.argmax())
        mark, label = parted(labels[best])
        if before != label or mark == "B":
            groups.append({"entity_group": labels[best].split("-", 1)[-1], "scores": [], "start": start})
        groups[-1]["scores"].append(float(row[best]))
        groups[-1]["end"] = end
        before = label
    return [
        {"entity_group": group["entity_group"], "score": float(np.mean(group["scores"])), "start": group["start"],
         "end": group["end"]}
        for group in groups if group["entity_group"] != "O"
    ]  # fmt: skip


def parted(label: str) -> tuple[str, str]:
    """Whether an entity begins or goes on with this label, and which."""
    return (label[0], label[2:]) if label[:2] in ("B-", "I-") else ("I", label)
