"""A query and passages to the score of each passage: makes the pairs, asks the model.

Copied into packages as `model.py`, beside `preprocessing.py` and `asked.json`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from preprocessing import Preprocessor


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
        """The score of every passage, in their order; all of a request have as many."""
        queries, passages = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("QUERY", "PASSAGES")
        )
        try:
            rows = [self._scores(query, row) for query, row in zip(queries.ravel().tolist(), passages.tolist(), strict=True)]
        except ValueError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        scores = np.array(rows, dtype=np.float32).reshape(passages.shape)
        return pb_utils.InferenceResponse([pb_utils.Tensor("SCORES", scores)])

    def _scores(self, query: bytes, passages: list[bytes]) -> list[float]:
        """Of one query, asked for as many at once as the model takes; those of a length together."""
        first, second = self.preprocess.columns
        found: list[float] = []
        for start in range(0, len(passages), self.asked["most"]):
            some = passages[start : start + self.asked["most"]]
            arrays = self.preprocess({first: [query] * len(some), second: some})
            response = pb_utils.InferenceRequest(
                model_name=self.asked["model"], requested_output_names=["logits"],
                inputs=[pb_utils.Tensor(name, array) for name, array in arrays.items()],
            ).exec()  # fmt: skip
            if response.has_error():
                raise ValueError(response.error().message())
            found += pb_utils.get_output_tensor_by_name(response, "logits").as_numpy().ravel().tolist()
        return found
