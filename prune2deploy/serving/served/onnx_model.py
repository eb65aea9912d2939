"""`model.onnx` in ONNX Runtime, for a server without a backend for it. Copied into packages as `model.py`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """See https://github.com/triton-inference-server/python_backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open a session with the settings that latency was measured with."""
        config = json.loads(args["model_config"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(config["parameters"]["intra_op_thread_count"]["string_value"])
        options.inter_op_num_threads = int(config["parameters"]["inter_op_thread_count"]["string_value"])
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = ["CPUExecutionProvider"]
        if args["model_instance_kind"] == "GPU":
            providers = [("CUDAExecutionProvider", {"device_id": args["model_instance_device_id"], "use_tf32": "0"})]
        file = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.session = onnxruntime.InferenceSession(str(file), options, providers=providers)
        if args["model_instance_kind"] == "GPU" and self.session.get_providers()[0] != "CUDAExecutionProvider":
            raise pb_utils.TritonModelException("ONNX Runtime has no CUDA in this server's python")
        self.inputs = [each.name for each in self.session.get_inputs()]
        self.outputs = [each.name for each in self.session.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        """One run for all `requests`: the batcher gives together only those of one shape."""
        rows = [
            {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
            for request in requests
        ]
        together = {name: np.concatenate([row[name] for row in rows]) for name in self.inputs}
        try:
            outputs = self.session.run(self.outputs, together)
        except Exception:  # ids out of range in one of them, say: the others must not suffer
            return [self._alone(row) for row in rows]
        ends = np.cumsum([len(row[self.inputs[0]]) for row in rows])[:-1]
        return [self._response(part) for part in zip(*(np.split(output, ends) for output in outputs), strict=True)]

    def _alone(self, row: dict[str, np.ndarray]) -> Any:
        try:
            return self._response(self.session.run(self.outputs, row))
        except Exception as error:  # the runtime's exceptions share no public base
            # an error of its own for each response: one that is shared is freed twice, and the server with it
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))

    def _response(self, outputs: Any) -> Any:
        pairs = zip(self.outputs, outputs, strict=True)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, output) for name, output in pairs])
