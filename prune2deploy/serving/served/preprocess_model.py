"""What clients send to what the model takes. Copied into packages as `model.py`, beside `preprocessing.py`."""

from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from preprocessing import Preprocessor


class TritonPythonModel:
    """See https://github.com/triton-inference-server/python_backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load what this version is made of."""
        self.preprocess = Preprocessor(Path(args["model_repository"]) / args["model_version"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer a request: each has a length of its own."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        columns = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy().ravel().tolist()
            for name in self.preprocess.columns
        }
        try:
            arrays = self.preprocess(columns)
        except ValueError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in arrays.items()])
