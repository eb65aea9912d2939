"""`model.onnx` in OpenVINO, for a server without a backend for it. Copied into packages as `model.py`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """See https://github.com/triton-inference-server/python_backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compile the model with the settings that latency was measured with."""
        config = json.loads(args["model_config"])
        settings = {name: each["string_value"] for name, each in config["parameters"].items()}
        file = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        compiled = openvino.Core().compile_model(str(file), "CPU", settings)
        self.request = compiled.create_infer_request()
        self.inputs = [each.get_any_name() for each in compiled.inputs]
        self.outputs = [each.get_any_name() for each in compiled.outputs]

    def execute(self, requests: list[Any]) -> list[Any]:
        """One run for all `requests`: the batcher gives together only those of one shape."""
        rows = [
            {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
            for request in requests
        ]
        together = {name: np.concatenate([row[name] for row in rows]) for name in self.inputs}
        try:
            outputs = self._run(together)
        except Exception:  # ids out of range in one of them, say: the others must not suffer
            return [self._alone(row) for row in rows]
        ends = np.cumsum([len(row[self.inputs[0]]) for row in rows])[:-1]
        return [self._response(part) for part in zip(*(np.split(output, ends) for output in outputs), strict=True)]

    def _run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        found = self.request.infer(inputs)
        return [found[index].copy() for index in range(len(self.outputs))]

    def _alone(self, row: dict[str, np.ndarray]) -> Any:
        try:
            return self._response(self._run(row))
        except Exception as error:  # the runtime's exceptions share no public base
            # an error of its own for each response: one that is shared is freed twice, and the server with it
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))

    def _response(self, outputs: Any) -> Any:
        pairs = zip(self.outputs, outputs, strict=True)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, output) for name, output in pairs])
