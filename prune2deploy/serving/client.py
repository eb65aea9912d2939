"""A client of a Triton server, over HTTP or gRPC: texts or images in, answers out."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from prune2deploy.errors import InputError, MissingPackageError

DEFAULT_TIMEOUT = 60.0  # seconds
TEXT, TEXT_PAIR, IMAGE, LABEL = "TEXT", "TEXT_PAIR", "IMAGE", "LABEL"


@dataclass(frozen=True)
class Prediction:
    """`score`: the softmax of `logits` at `label`."""

    label: str
    score: float
    logits: list[float]


@dataclass(frozen=True)
class Answer:
    """What the server gave: `outputs` by name, and the version of the model that gave them."""

    outputs: dict[str, np.ndarray]
    version: str


class Client:
    """A connection to the server at `url`: `localhost:8000`, `http://host:8000` or `grpc://host:8001` (or https, grpcs).

    Not to be shared by threads. Every method raises InputError, with what the server said, where it refuses a request or
    is not there.
    """

    def __init__(self, url: str = "localhost:8000", timeout: float = DEFAULT_TIMEOUT):
        scheme, _, address = url.rpartition("://")
        if scheme not in ("", "http", "https", "grpc", "grpcs") or not address:
            raise InputError(f"{url}: give host:port, http://host:port or grpc://host:port")
        self.url, self.timeout = url, timeout
        self.grpc = scheme in ("grpc", "grpcs")
        self.module = import_client(self.grpc)
        options: dict[str, Any] = {"ssl": scheme in ("https", "grpcs")}
        if not self.grpc:
            options |= {"connection_timeout": timeout, "network_timeout": timeout}
        with self._refusals():
            self.connection = self.module.InferenceServerClient(address.rstrip("/"), **options)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back."""
        self.connection.close()

    def ready(self, model: str) -> bool:
        """Whether the server answers requests to `model`."""
        try:
            return bool(self.connection.is_model_ready(model))
        except Exception:  # of several kinds, and each of them means no
            return False

    def config(self, model: str) -> dict[str, Any]:
        """The configuration that the server runs `model` with."""
        with self._refusals():
            if self.grpc:
                return self.connection.get_model_config(model, as_json=True)["config"]
            return self.connection.get_model_config(model)

    def statistics(self, model: str) -> dict[str, tuple[int, int]]:
        """How many samples each version of `model` that is loaded has answered, and in how many executions."""
        with self._refusals():
            if self.grpc:
                found = self.connection.get_inference_statistics(model, as_json=True)
            else:
                found = self.connection.get_inference_statistics(model)
        return {
            each["version"]: (int(each.get("inference_count", 0)), int(each.get("execution_count", 0)))
            for each in found.get("model_stats", [])
        }

    def infer(self, model: str, inputs: dict[str, np.ndarray], version: str = "") -> Answer:
        """What `model` makes of `inputs`, arrays whose first axis is the batch; of strings, arrays of bytes objects."""
        from tritonclient.utils import np_to_triton_dtype

        tensors = []
        for name, array in inputs.items():
            tensor = self.module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        options = {"client_timeout": self.timeout} if self.grpc else {}
        with self._refusals():
            result = self.connection.infer(model, tensors, model_version=version, **options)
        response = result.get_response()
        if self.grpc:
            names, served = [output.name for output in response.outputs], response.model_version
        else:
            names, served = [output["name"] for output in response["outputs"]], response["model_version"]
        return Answer({name: result.as_numpy(name) for name in names}, served)

    def classify(
        self, model: str, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> list[Prediction]:
        """The label of each text, or of each pair of a text and the one in its place in `pairs`."""
        columns = {TEXT: list(map(encoded, texts))}
        if pairs is not None:
            columns[TEXT_PAIR] = list(map(encoded, pairs))
        return self.predictions(model, columns)

    def classify_images(self, model: str, images: Sequence[bytes | Path]) -> list[Prediction]:
        """The label of each image, given as an encoded file or its path."""
        try:
            files = [image if isinstance(image, bytes) else image.read_bytes() for image in images]
        except OSError as error:
            raise InputError(f"this image cannot be read: {error}") from None
        return self.predictions(model, {IMAGE: files})

    def predictions(self, model: str, columns: dict[str, list[bytes]]) -> list[Prediction]:
        """The label of each row of `columns`, in requests that are as large as the model takes."""
        if len({len(column) for column in columns.values()}) != 1:
            raise InputError("give as many second texts as first ones")
        config = self.config(model)
        takes = [tensor["name"] for tensor in config["input"]]
        if set(takes) != set(columns):
            hint = "" if set(takes) <= {TEXT, TEXT_PAIR, IMAGE} else (
                "; texts and images go to the ensemble that `export --with-tokenizer` makes, such as "
                f"{model}_text or {model}_image"
            )  # fmt: skip
            raise InputError(f"{model!r} takes {', '.join(takes)}, not {', '.join(columns)}{hint}")
        largest, found = int(config["max_batch_size"]), []
        for start in range(0, len(next(iter(columns.values()))), largest):
            inputs = {name: strings(column[start : start + largest]) for name, column in columns.items()}
            found += predictions_of(self.infer(model, inputs))
        return found

    def ask(self, model: str, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """What `model` answers to each text, by the name of the output: entities, labels, vectors, an answer, scores.

        `pairs`: second texts, one for each text; or, where `model` takes a list of them, all of them for each text.
        """
        config = self.config(model)
        taken = [(tensor["name"], [int(size) for size in tensor["dims"]]) for tensor in config["input"]]
        several = len(taken) == 2 and taken[1][1] == [-1]
        if len(taken) != 1 + (pairs is not None) or (pairs is not None and not several and len(pairs) != len(texts)):
            raise InputError(f"{model!r} takes {' and '.join(name for name, _ in taken)}: give as many of each")
        found = []
        for index, text in enumerate(texts):
            inputs = {taken[0][0]: strings([encoded(text)])}
            if pairs is not None:
                second = list(map(encoded, pairs)) if several else [encoded(pairs[index])]
                inputs[taken[1][0]] = np.array([second], dtype=object)
            found.append({name: plain(output[0]) for name, output in self.infer(model, inputs).outputs.items()})
        return found

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        from tritonclient.utils import InferenceServerException

        try:
            yield
        except InferenceServerException as error:
            raise InputError(f"{self.url}: {said(error.message())}") from None
        except Exception as error:  # whatever the transport raises: refused, reset, no HTTP, an address that is none
            raise InputError(f"{self.url}: no answer from a Triton server: {error or type(error).__name__}") from None


def encoded(text: str) -> bytes:
    """UTF-8; bytes that a shell passed on although they are none go as they are, for the server to refuse."""
    return text.encode("utf-8", "surrogateescape")


def said(message: str) -> str:
    """What a server said, without the JSON that it may be wrapped in."""
    try:
        return str(json.loads(message)["error"])
    except (ValueError, KeyError, TypeError):
        return message


def strings(values: Sequence[bytes]) -> np.ndarray:
    """[n, 1], as a served input of strings wants them."""
    return np.array(values, dtype=object).reshape(-1, 1)


def plain(output: np.ndarray) -> Any:
    """One row of an output as JSON has it: what is JSON already, a text, a number, or lists of them."""
    if output.dtype != object:
        return output.tolist()[0] if output.shape == (1,) else output.tolist()
    text = output.ravel()[0].decode("utf-8")
    return json.loads(text) if text[:1] == "[" and text[-1:] == "]" else text


def predictions_of(answer: Answer) -> list[Prediction]:
    """The rows of an ensemble's answer."""
    found = []
    for label, logits in zip(answer.outputs["LABEL"].ravel(), answer.outputs["LOGITS"], strict=True):
        shares = np.exp(logits - logits.max())
        score = float(shares.max() / shares.sum())
        found.append(Prediction(label.decode() if isinstance(label, bytes) else str(label), score, logits.tolist()))
    return found


def import_client(grpc: bool) -> ModuleType:
    """Tritonclient's module for the protocol; raises MissingPackageError."""
    try:
        if grpc:
            import tritonclient.grpc as module
        else:
            import tritonclient.http as module
    except (ImportError, RuntimeError):  # tritonclient raises RuntimeError where its extra is missing
        raise MissingPackageError("tritonclient", "triton") from None
    return module
