"""Which initializer of an exported graph holds which parameter of the module: told by name, or by content.

The exporter stores the weight of a product transposed, under a name of its own.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx
    from torch import nn


@dataclass(frozen=True)
class Place:
    """Where a parameter is."""

    initializer: str
    transposed: bool


def places_of(graph: "onnx.GraphProto", module: "nn.Module") -> dict[str, Place]:
    """By the name of each parameter of `module` that is found in `graph`, which was exported from it."""
    from onnx import numpy_helper

    names = {entry.name for entry in graph.initializer}
    by_content = {digest_of(numpy_helper.to_array(entry)): entry.name for entry in graph.initializer}
    found: dict[str, Place] = {}
    for name, tensor in module.named_parameters():
        array = tensor.detach().numpy()
        if name in names:
            found[name] = Place(name, False)
        elif (here := by_content.get(digest_of(array))) is not None:  # equal tensors are one, under the name of one of them
            found[name] = Place(here, False)
        elif array.ndim == 2 and (here := by_content.get(digest_of(array.T))) is not None:
            found[name] = Place(here, True)
    return found


def set_nodes_(graph: "onnx.GraphProto", nodes: "Iterable[onnx.NodeProto]") -> None:
    """Give `graph`, in place, these nodes, and drop the initializers that none of them reads."""
    made = list(nodes)
    del graph.node[:]
    graph.node.extend(made)
    used = {name for node in made for name in node.input}
    kept = [entry for entry in graph.initializer if entry.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def digest_of(array: np.ndarray) -> bytes:
    """A hash of content and shape."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes() + str(array.shape).encode()).digest()
