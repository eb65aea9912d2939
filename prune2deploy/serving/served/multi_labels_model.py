"""Logits to all labels whose probability is above a threshold. Copied into packages as `model.py`, beside `labels.txt`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """See https://github.com/triton-inference-server/python_backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the names, one a line, and the threshold."""
        version = Path(args["model_repository"]) / args["model_version"]
        self.labels = (version / "labels.txt").read_bytes().decode("utf-8").split("\n")[:-1]
        settings = json.loads((version / "answering.json").read_text(encoding="utf-8"))
        self.least = np.log(settings["threshold"]) - np.log1p(-settings["threshold"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer a request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        """The labels of each row as a JSON list, the likeliest first, and the probability of every label."""
        logits = pb_utils.get_input_tensor_by_name(request, "LOGITS").as_numpy()
        rows = []
        for row in logits:
            given = [index for index in np.argsort(-row, kind="stable") if row[index] >= self.least]
            rows.append([json.dumps([self.labels[index] for index in given], ensure_ascii=False)])
        scores = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
        labels = np.array(rows, dtype=object)
        return pb_utils.InferenceResponse([pb_utils.Tensor("LABELS", labels), pb_utils.Tensor("SCORES", scores)])
