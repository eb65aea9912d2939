"""What each block costs inside a built engine: the engine's own layers, told apart by the ONNX nodes that went into them."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from prune2deploy.models.family import Block, Branch, Family

OTHER = "other"  # embeddings, head, copies: whatever belongs to no block


def block_ms(
    layer_ms: Mapping[str, float], layers: Iterable[Mapping], modules: Mapping[str, str], blocks: list[Block], family: Family
) -> dict[str, float]:
    """Milliseconds by block key, and under `OTHER` what belongs to none.

    Args:
        layer_ms: by the name of the engine's layer.
        layers: what the engine inspector says of each; "Metadata" names the ONNX nodes in it.
        modules: the PyTorch module of each node (`models/onnx_nodes.py`).
        blocks: of the model.
        family: of the model.

    A layer that holds nodes of several blocks counts for the one with most of them.
    """
    known = {block.key for block in blocks}
    nodes = {layer["Name"]: re.findall(r"\[ONNX Layer: ([^\]]+)\]", layer.get("Metadata", "")) for layer in layers}
    found = dict.fromkeys([*known, OTHER], 0.0)
    for name, ms in layer_ms.items():
        keys = (block_key(modules[node], family) for node in nodes.get(name, ()) if node in modules)
        votes = Counter(key for key in keys if key in known)
        found[votes.most_common(1)[0][0] if votes else OTHER] += ms
    return found


def block_key(module: str, family: Family) -> str | None:
    """The key of the block that the module at this path is part of; None outside of layers."""
    matched = re.search(r"\.(\d+)\.(\w+)", f".{module}")
    if matched is None:
        return None
    layer, part = matched.groups()
    kind = next((kind for kind, branch in family.branches.items() if part in _parts(branch)), None)
    return f"{layer}.{kind}" if kind else None


def _parts(branch: Branch) -> set[str]:
    """The submodules of a layer that a branch lives in."""
    return {path.split(".")[0] for path in (*branch.producers, branch.consumer, branch.entry)}
