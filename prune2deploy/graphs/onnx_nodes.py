"""Which module of the PyTorch model an ONNX node came from, told by the parameters that it and its neighbours read."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def modules_of(graph: "onnx.GraphProto") -> dict[str, str]:
    """The path of a module for every node of `graph`, by the node's name; nodes before any parameter have none.

    A node that reads a parameter is of its module; a product whose weight lost its name (the exporter stores it
    transposed) is of the module whose bias is added to it; every other node goes with what feeds it.
    """
    weights = {entry.name for entry in graph.initializer}
    owners: dict[str, str] = {}  # of what nodes put out
    found: dict[str, str] = {}
    after = {name: node for node in reversed(graph.node) for name in node.input}
    for node in graph.node:
        module = _own(node, weights)
        if module is None and any(name in weights for name in node.input) and node.output[0] in after:
            module = _own(after[node.output[0]], weights)
        if module is None:
            module = next((owners[name] for name in node.input if name in owners), None)
        if module is not None:
            found[node.name] = module
            owners.update(dict.fromkeys(node.output, module))
    return found


def _own(node: "onnx.NodeProto", weights: set[str]) -> str | None:
    """The module whose parameter `node` reads under its own name."""
    named = (name.rpartition(".")[0] for name in node.input if name in weights and "." in name)
    return next(named, None)
