"""Logits to the name of the likeliest class. Copied into packages as `model.py`, beside `labels.txt`."""

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """See https://github.com/triton-inference-server/python_backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the names, one a line."""
        file = Path(args["model_repository"]) / args["model_version"] / "labels.txt"
        self.labels = np.array(file.read_bytes().decode("utf-8").split("\n")[:-1], dtype=object)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer a request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        logits = pb_utils.get_input_tensor_by_name(request, "LOGITS").as_numpy()
        labels = self.labels[logits.argmax(-1)].reshape(-1, 1)
        return pb_utils.InferenceResponse([pb_utils.Tensor("LABEL", labels)])
