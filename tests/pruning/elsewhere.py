"""A device that is not the CPU, made of it: its tensors hold real numbers, but do not mix with those of the CPU.

It answers to the name of PyTorch's "meta" device. What a GPU would refuse is refused here: arithmetic between tensors
here and there, and taking a tensor's memory for NumPy. What a GPU computes differently is not seen.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
MAY_MIX = {"_to_copy", "copy_", "index", "index_put", "index_put_", "_index_put_impl_"}  # a GPU takes indices from a CPU


class Elsewhere(torch.Tensor):
    """A tensor of that device; its numbers are in `inner`."""

    @staticmethod
    def __new__(cls, inner):
        self = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device=DEVICE
        )
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return computed(function, args, kwargs or {})

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert a tensor of another device to numpy; use .cpu() first")


class Device(TorchDispatchMode):
    """While open, what is made on or moved to `DEVICE` is `Elsewhere`."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return computed(function, args, kwargs or {})


def computed(function, args, kwargs):
    """`function` of the numbers, and what it gives, on the device where it belongs."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = {id(tensor.inner): tensor for tensor in tensors if isinstance(tensor, Elsewhere)}
    name = function.overloadpacket.__name__
    if there and name not in MAY_MIX:
        strangers = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.dim()]
        assert not strangers, f"{name}: expected all tensors on one device, found {len(strangers)} on the CPU"
    wanted = kwargs.get("device")
    goes = bool(there) if wanted is None else torch.device(wanted) == DEVICE
    if name == "copy_":
        goes = isinstance(args[0], Elsewhere)
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    args, kwargs = tree_map_only(Elsewhere, lambda tensor: tensor.inner, (args, kwargs))
    result = function(*args, **kwargs)
    if not goes:
        return result

    def placed(tensor):
        return there[id(tensor)] if id(tensor) in there else Elsewhere(tensor)

    return tree_map_only(torch.Tensor, placed, result)


def moved(model):
    """`model`, in place, with its weights on the device; parameters that are shared stay shared."""
    seen = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                there = seen.setdefault(id(parameter), torch.nn.Parameter(Elsewhere(parameter.data), requires_grad=False))
                module._parameters[name] = there
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = Elsewhere(buffer)
    return model


def brought_back(model):
    """The weights of a moved model as CPU tensors by name."""
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}
