"""One factor on a model's logits, which changes nothing else that uses the same weights."""

from typing import TYPE_CHECKING, Any

from prune2deploy.models.family import heads_of

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

FACTOR = "logit_scale"  # of a head that shares its weights, such as with the embeddings: what its output is multiplied by


def scale_logits_(model: "PreTrainedModel", scale: float) -> None:
    """Multiply, in place, the logits of `model` by `scale`: in the weights, where nothing else uses them."""
    import torch

    heads = heads_of(model)
    if any(is_tied(model, head) for head in heads):
        set_factor_(model, factor_of(model) * scale)
        return
    with torch.no_grad():
        for parameter in (parameter for head in heads for parameter in head.parameters()):
            parameter.mul_(scale)


def factor_of(model: "PreTrainedModel") -> float:
    """What the output of the head is multiplied by; 1 where the weights hold it."""
    return float(getattr(next(iter(heads_of(model)), None), FACTOR, 1.0))


def set_factor_(model: "PreTrainedModel", factor: float) -> None:
    """Have the head multiply its output by `factor`, whatever it was before."""
    for head in heads_of(model):
        if not hasattr(head, FACTOR):
            if factor == 1.0:
                continue
            head.register_forward_hook(_multiplied)
        setattr(head, FACTOR, factor)


def is_tied(model: "PreTrainedModel", head: "nn.Module") -> bool:
    """Whether another part of `model` uses a weight of `head`, too."""
    own = {id(parameter) for parameter in head.parameters()}
    uses = sum(id(parameter) in own for _, parameter in model.named_parameters(remove_duplicate=False))
    return uses > len(own)


def _multiplied(head: "nn.Module", args: Any, output: "torch.Tensor") -> "torch.Tensor":
    return output * float(getattr(head, FACTOR))
