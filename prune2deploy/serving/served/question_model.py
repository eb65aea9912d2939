"""Questions and contexts to answers: makes the windows, asks the model, takes the best stretch.

Copied into packages as `model.py`, beside `preprocessing.py`, `answering.json` and `asked.json`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from preprocessing import Preprocessor

BEST = 20  # starts and ends that are tried with each other


class TritonPythonModel:
    """See https://github.com/triton-inference-server/python_backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load what this version is made of."""
        version = Path(args["model_repository"]) / args["model_version"]
        self.preprocess = Preprocessor(version)
        self.settings = json.loads((version / "answering.json").read_text(encoding="utf-8"))
        self.asked = json.loads((version / "asked.json").read_text(encoding="utf-8"))

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer a request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        columns = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy().ravel().tolist()
            for name in self.preprocess.columns
        }
        try:
            arrays = self.preprocess(columns)
            rows, spans = arrays.pop("ROWS"), arrays.pop("SPANS")
            starts, ends = self._logits(arrays)
        except ValueError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        contexts = [text.decode("utf-8") for text in columns[self.preprocess.columns[1]]]
        answers, scores, places = [], [], []
        for row, context in enumerate(contexts):
            windows = [(starts[place], ends[place], spans[place]) for place in np.flatnonzero(rows == row)]
            score, start, end = best_of(windows, self.settings["longest"], self.settings["may_have_none"])
            answers.append([context[start:end]])
            scores.append([score])
            places.append([start, end])
        return pb_utils.InferenceResponse([
            pb_utils.Tensor("ANSWER", np.array(answers, dtype=object)),
            pb_utils.Tensor("SCORE", np.array(scores, dtype=np.float32)),
            pb_utils.Tensor("SPAN", np.array(places, dtype=np.int64)),
        ])  # fmt: skip

    def _logits(self, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Start and end logits, [windows, length], asked for as many at once as the model takes."""
        count, most = len(next(iter(arrays.values()))), self.asked["most"]
        parts = []
        for first in range(0, count, most):
            response = pb_utils.InferenceRequest(
                model_name=self.asked["model"], requested_output_names=self.settings["outputs"],
                inputs=[pb_utils.Tensor(name, array[first : first + most]) for name, array in arrays.items()],
            ).exec()  # fmt: skip
            if response.has_error():
                raise ValueError(response.error().message())
            parts.append([
                pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in self.settings["outputs"]
            ])  # fmt: skip
        return [np.concatenate(output) for output in zip(*parts, strict=True)]


def best_of(windows: list[tuple[np.ndarray, np.ndarray, np.ndarray]], longest: int, may_have_none: bool) -> Any:
    """(probability, first character, last) of the stretch whose ends have the highest logits, over `windows` of a context.

    The probability is that of both ends, by softmax over the context's tokens in the window, and the first of all. (0, 0)
    where there is no such stretch, or, where there `may_have_none`, the first token has higher logits in every window.
    """
    best, none = (-np.inf, 0.0, 0, 0), np.inf
    for start, end, spans in windows:
        inside = np.flatnonzero(spans[:, 0] >= 0)
        within = np.append(inside, 0)
        odds = [np.exp(logits - logits[within].max()) for logits in (start, end)]
        sums = [each[within].sum() for each in odds]
        none = min(none, float(start[0] + end[0]))
        starts, ends = (inside[np.argsort(-logits[inside], kind="stable")[:BEST]] for logits in (start, end))
        for first in starts.tolist():
            for last in ends.tolist():
                score = float(start[first] + end[last])
                if first <= last < first + longest and score > best[0]:
                    share = float(odds[0][first] / sums[0] * odds[1][last] / sums[1])
                    best = (score, share, int(spans[first, 0]), int(spans[last, 1]))
    if may_have_none and none > best[0]:
        return 0.0, 0, 0
    return best[1:]
