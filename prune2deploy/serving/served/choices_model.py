"""A text and choices to the one that goes with it: makes the pairs, asks the model.

Copied into packages as `model.py`, beside `preprocessing.py` and `asked.json`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from preprocessing import Preprocessor, decoded


class TritonPythonModel:
    """See https://github.com/triton-inference-server/python_backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load what this version is made of."""
        version = Path(args["model_repository"]) / args["model_version"]
        self.preprocess = Preprocessor(version)
        self.asked = json.loads((version / "asked.json").read_text(encoding="utf-8"))

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer a request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        """Of every row the number of the choice, from 0, and the probability of each."""
        texts, choices = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("TEXT", "CHOICES"))
        try:
            logits = self._logits(texts.ravel().tolist(), choices.tolist())
        except ValueError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        likely = np.exp(logits - logits.max(1, keepdims=True))
        scores = (likely / likely.sum(1, keepdims=True)).astype(np.float32)
        best = logits.argmax(1).astype(np.int64)[:, None]
        return pb_utils.InferenceResponse([pb_utils.Tensor("CHOICE", best), pb_utils.Tensor("SCORES", scores)])

    def _logits(self, texts: list[bytes], choices: list[list[bytes]]) -> np.ndarray:
        """[rows, choices]."""
        lists = [json.dumps([decoded(choice) for choice in row]).encode() for row in choices]
        arrays = self.preprocess(dict(zip(self.preprocess.columns, (texts, lists), strict=True)))
        response = pb_utils.InferenceRequest(
            model_name=self.asked["model"], requested_output_names=["logits"],
            inputs=[pb_utils.Tensor(name, array) for name, array in arrays.items()],
        ).exec()  # fmt: skip
        if response.has_error():
            raise ValueError(response.error().message())
        found: np.ndarray = pb_utils.get_output_tensor_by_name(response, "logits").as_numpy()
        return found
