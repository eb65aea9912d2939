"""What each block costs inside a built engine: the engine's own layers, told apart by the ONNX nodes that went into them."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from prune2deploy.models.block import Block

OTHER = "other"  # embeddings, head, copies: whatever belongs to no block


def block_ms(
    layer_ms: Mapping[str, float], layers: Iterable[Mapping], modules: Mapping[str, str], blocks: list[Block]
) -> dict[str, float]:
    """Milliseconds by block key, and under `OTHER` what belongs to none.

    Args:
        layer_ms: by the name of the engine's layer.
        layers: what the engine inspector says of each; "Metadata" names the ONNX nodes in it.
        modules: the PyTorch module of each node (`graphs/onnx_nodes.py`).
        blocks: of the model.

    A layer that holds nodes of several blocks counts for the one with most of them.
    """
    nodes = {layer["Name"]: re.findall(r"\[ONNX Layer: ([^\]]+)\]", layer.get("Metadata", "")) for layer in layers}
    found = dict.fromkeys([*(block.key for block in blocks), OTHER], 0.0)
    for name, ms in layer_ms.items():
        keys = (block_key(modules[node], blocks) for node in nodes.get(name, ()) if node in modules)
        votes = Counter(key for key in keys if key is not None)
        found[votes.most_common(1)[0][0] if votes else OTHER] += ms
    return found


def block_key(module: str, blocks: list[Block]) -> str | None:
    """The key of the block that the module at this path is part of; None for the rest."""
    path = f".{module}."
    parts = ((block.key, f".{block.root}.{part}.") for block in blocks for part in _parts(block))
    return next((key for key, part in parts if part in path), None)


def _parts(block: Block) -> set[str]:
    """The submodules of its layer that a block lives in."""
    return {path.split(".")[0] for path in (*block.parts, *([block.entry] if block.entry else []))}
