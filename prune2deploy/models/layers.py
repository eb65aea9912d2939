"""Blocks of models whose layers are alike: what one layer has, and then that in every layer."""

from collections.abc import Iterable
from dataclasses import replace

from prune2deploy.models.block import Block, Cut, StandIn


def heads(units: int, size: int, inside: Iterable[str], output: str, sections: int = 1) -> Block:
    """Attention heads of `size` columns each; in no layer yet.

    `inside`: the projections that make them, each of so many `sections` one after the other (3: query, key and value).
    """
    cuts = tuple(Cut(path, (size,) * sections) for path in inside)
    return Block("attention", "", 0, "attention", "attention", units, output=output, columns=size, cuts=cuts, gone=())


def filters(units: int, inside: Iterable[str], output: str, sections: int = 1) -> Block:
    """The filters of an FFN; `inside` and `sections` as of `heads`; in no layer yet."""
    cuts = tuple(Cut(path, (1,) * sections) for path in inside)
    return Block("ffn", "", 0, "ffn", "ffn", units, output=output, columns=1, cuts=cuts, gone=())


def pre_norm(block: Block, norm: str, module: str, tuple_of: int = 0, scaled: bool = False) -> Block:
    """`block` is all of `module`, and `norm` is before it and nothing else: both go with the block's last unit.

    `tuple_of`: see StandIn; `scaled`: what it puts out is multiplied before it is added to the residual stream.
    """
    gone = (StandIn(norm, "input"), StandIn(module, "bias", tuple_of))
    return replace(block, gone=gone, entry="" if scaled else norm, span=_span(block, module))


def post_norm(block: Block, module: str, tuple_of: int = 0) -> Block:
    """`block` is all of `module`, and the residual stream enters it as it is."""
    return replace(
        block, gone=(StandIn(module, "bias", tuple_of),), entry=block.cuts[0].path, span=_span(block, module)
    )


def post_norm_inside(block: Block, inside: str, span: str = "", tuple_of: int = 0) -> Block:
    """As `post_norm`, but the norm is in the module of the output projection, and before that comes `inside`."""
    gone = (StandIn(inside, "input", tuple_of), StandIn(block.output, "bias"))
    return replace(block, gone=gone, entry=block.cuts[0].path, span=span)


def _span(block: Block, module: str) -> str:
    return module if block.kind == "attention" else ""


def in_every_layer(path: str, layers: int, *blocks: Block) -> list[Block]:
    """What one layer has, for each of the `layers` at `path`, in forward order."""
    return [
        replace(block, key=f"{layer}.{block.key}", root=f"{path}.{layer}", layer=layer)
        for layer in range(layers)
        for block in blocks
    ]
