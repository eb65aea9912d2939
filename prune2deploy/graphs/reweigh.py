"""The ONNX graph of a module, with the weights of a narrower one: seconds saved at each width that profiling measures.

A graph whose axes are free does not change with the widths as long as the same blocks are there; only its weights do.
Where the exporter has baked a width into the graph (head counts where the sequence length is fixed, groups of queries),
shape inference says so, or what the graph puts out is not what the module does, and the caller exports anew.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.graphs.files import move_graph, save_graph
from prune2deploy.graphs.initializers import places_of

if TYPE_CHECKING:
    import torch
    from torch import nn

EQUAL = 1e-3  # of the largest output; a wrong graph is wrong altogether


class Template:
    """An exported graph and the module that it was exported from, which takes `inputs`."""

    def __init__(self, onnx_file: Path, module: "nn.Module", inputs: "Mapping[str, torch.Tensor]"):
        import onnx

        self.inputs = dict(inputs)
        self.graph = onnx.load(onnx_file)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in module.named_parameters()}
        self.places = places_of(self.graph.graph, module)

    def write(self, module: "nn.Module", onnx_file: Path) -> bool:
        """Write the graph with the weights of `module`; False where a weight that changed has no known place."""
        import onnx
        from onnx import numpy_helper

        arrays = {name: tensor.detach().numpy() for name, tensor in module.named_parameters()}
        changed = [name for name in self.shapes if name in arrays and arrays[name].shape != self.shapes[name]]
        if set(arrays) != set(self.shapes) or any(name not in self.places for name in changed):
            return False
        graph = onnx.ModelProto()
        graph.CopyFrom(self.graph)
        initializers = {entry.name: entry for entry in graph.graph.initializer}
        for name in changed:
            place = self.places[name]
            array = np.ascontiguousarray(arrays[name].T if place.transposed else arrays[name])
            initializers[place.initializer].CopyFrom(numpy_helper.from_array(array, place.initializer))
        with tempfile.TemporaryDirectory(dir=onnx_file.parent, prefix=".reweighed-") as folder:
            made = Path(folder) / onnx_file.name
            try:
                save_graph(graph, made)
            except Exception:  # checker and shape inference raise unrelated kinds; each says that a shape was baked in
                return False
            if not self._computes(made, module):
                return False
            move_graph(made, onnx_file)
        return True

    def _computes(self, onnx_file: Path, module: "nn.Module") -> bool:
        """Whether the graph puts out what `module` does."""
        import onnxruntime
        import torch

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        with torch.no_grad():
            wanted = [tensor.numpy() for tensor in module(inputs=self.inputs)]
        try:
            session = onnxruntime.InferenceSession(str(onnx_file), options, ["CPUExecutionProvider"])
            given = {entry.name: self.inputs[entry.name].numpy() for entry in session.get_inputs()}
            got = session.run(None, given)
        except Exception:  # ONNX Runtime raises kinds of its own; each says that a shape was baked in
            return False
        return all(map(_equal, got, wanted))


def _equal(got: np.ndarray, wanted: np.ndarray) -> bool:
    return got.shape == wanted.shape and bool(np.abs(got - wanted).max() <= EQUAL * max(1.0, np.abs(wanted).max()))
