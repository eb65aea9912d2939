"""From a PyTorch module to an ONNX file with named dynamic dimensions."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prune2deploy.errors import CheckFailedError
from prune2deploy.graphs.files import save_graph

if TYPE_CHECKING:
    import torch
    from torch import nn

OPSET = 18  # TensorRT 11 cannot build opset 23's native Attention yet (docs/measuring.md)


def to_onnx(
    module: "nn.Module",
    inputs: "Mapping[str, torch.Tensor]",
    axes: Mapping[str, Mapping[int, str]],
    limits: Mapping[str, int],
    outputs: list[str],
    path: Path,
) -> None:
    """Export `module(inputs=inputs)`, which returns a tuple of tensors, to `path`.

    Args:
        module: in evaluation mode.
        inputs: example inputs by name, in the order of the graph's inputs; free axes should be larger than 1.
        axes: per input, the axes that stay free and their names.
        limits: the largest size of each named axis that the model can take.
        outputs: the names of the outputs.
        path: the file to write; it is complete or absent.

    Raises:
        CheckFailedError: the exported graph is not valid ONNX.
    """
    import onnx
    import torch

    dims = {name: torch.export.Dim(name, min=1, max=limit) for name, limit in limits.items()}
    dynamic = {name: {axis: dims[dim] for axis, dim in axes.get(name, {}).items()} for name in inputs}
    with _quiet(), torch.no_grad():  # with gradients on, some attention code does not decompose
        program = torch.onnx.export(
            module, (), kwargs={"inputs": dict(inputs)}, dynamic_shapes={"inputs": dynamic}, input_names=list(inputs),
            output_names=outputs, opset_version=OPSET, dynamo=True, verbose=False,
        )
        assert program is not None
        graph = program.model_proto
    for node in graph.graph.node:
        del node.metadata_props[:]  # the exporter writes source paths of this machine into every node
    for value in [*graph.graph.input, *graph.graph.output, *graph.graph.initializer]:
        del value.metadata_props[:]
    del graph.graph.value_info[:]  # with it ONNX Runtime 1.31 ran shrunk models 10 % slower (docs/measuring.md)
    try:
        save_graph(graph, path)
    except onnx.checker.ValidationError as error:
        raise CheckFailedError(f"the exported graph is not valid ONNX: {str(error).splitlines()[0]}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints, logs and warns about things that a user can do nothing about."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
