"""The output projection of a block as a matrix, whatever module it is: [outputs, columns], rows of numbers in and out.

A convolution is a matrix, too: what it looks at from one place is a row, with all taps of a channel side by side. A
feature map, [batch, channels, height, width], is the rows of its places; windows of an image are rows of that image.
"""

from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from prune2deploy.models.block import Block


class Projection(Protocol):
    """A matrix and a bias; to write into them changes the model."""

    @property
    def weight(self) -> "torch.Tensor":
        """[outputs, columns]."""

    @property
    def bias(self) -> "torch.Tensor | None":
        """[outputs]."""

    @property
    def in_features(self) -> int:
        """Columns."""

    @property
    def out_features(self) -> int:
        """Outputs."""


class _Convolution:
    """A convolution as a matrix, in the module's own memory."""

    def __init__(self, module: "nn.Conv2d"):
        self.weight = module.weight.detach().flatten(1)
        self.bias = module.bias
        self.out_features, self.in_features = self.weight.shape


def as_matrix(module: "nn.Module") -> Projection:
    """`module`, a Linear or a convolution, as a matrix."""
    from torch import nn

    return _Convolution(module) if isinstance(module, nn.Conv2d) else cast(Projection, module)


def output_projection(model: "PreTrainedModel", block: "Block") -> Projection:
    """The matrix whose columns are the units of `block` and whose output goes to the residual stream."""
    return as_matrix(model.get_submodule(f"{block.root}.{block.output}"))


def modules_of(layer: "nn.Module", block: "Block") -> "list[nn.Linear | nn.Conv2d]":
    """The Linear modules and convolutions that `block` is made of, its output projection last."""
    return list(_parts_of(layer, block).values())


def linears_of(layer: "nn.Module", block: "Block") -> "dict[str, nn.Linear]":
    """The linear layers that `block` is made of, its output projection last, by their paths; none where others are, too."""
    from torch import nn

    parts = _parts_of(layer, block)
    linear = {path: module for path, module in parts.items() if isinstance(module, nn.Linear)}
    return linear if len(linear) == len(parts) else {}


def _parts_of(layer: "nn.Module", block: "Block") -> "dict[str, nn.Linear | nn.Conv2d]":
    from torch import nn

    found = dict(layer.named_modules())
    return {path: module for path in block.parts if isinstance(module := found.get(path), nn.Linear | nn.Conv2d)}


def rows_in(module: "nn.Module", given: "torch.Tensor", samples: int) -> "torch.Tensor":
    """What goes into the output projection `module`, as [samples, rows, columns]."""
    from torch import nn
    from torch.nn.functional import unfold

    if isinstance(module, nn.Conv2d):
        assert not isinstance(module.padding, str)
        places = unfold(given, module.kernel_size, module.dilation, module.padding, module.stride)
        return places.transpose(1, 2)
    return given.reshape(samples, -1, given.shape[-1])


def rows_out(module: "nn.Module", put_out: "torch.Tensor", samples: int) -> "torch.Tensor":
    """What the output projection `module` puts out, as [samples, rows, outputs]; a Linear has them last on any shape."""
    from torch import nn

    if isinstance(module, nn.Conv2d):
        return as_rows(put_out, samples)
    return put_out.reshape(samples, -1, put_out.shape[-1])


def as_rows(hidden: "torch.Tensor", samples: int) -> "torch.Tensor":
    """Hidden states of `samples` samples, feature maps or windows among them, as [samples, rows, width]."""
    if hidden.dim() == 4 and len(hidden) == samples:
        return hidden.flatten(2).transpose(1, 2)
    return hidden.reshape(samples, -1, hidden.shape[-1])


def like(rows: "torch.Tensor", hidden: "torch.Tensor") -> "torch.Tensor":
    """`rows`, [samples, rows, width], in the shape of the hidden states that `as_rows` made such rows of."""
    if hidden.dim() == 4 and len(hidden) == len(rows):
        return rows.transpose(1, 2).reshape(hidden.shape)
    return rows.reshape(hidden.shape)


def times(module: "nn.Module", given: "torch.Tensor", factors: "torch.Tensor") -> "torch.Tensor":
    """What goes into the output projection `module`, times `factors`, [samples, columns without taps], in its own shape."""
    from torch import nn

    if isinstance(module, nn.Conv2d):
        return given * factors[:, :, None, None]
    return (given.reshape(len(factors), -1, given.shape[-1]) * factors[:, None, :]).reshape(given.shape)
