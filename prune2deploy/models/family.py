"""What prune2deploy must know of a model family, declared as data where data is enough."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from prune2deploy.files import Record

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

Kind = Literal["attention", "ffn"]
KINDS: tuple[Kind, ...] = ("attention", "ffn")  # in the order in which a layer runs them


class ModelSignature(Record):
    """What latency depends on; two checkpoints with one signature share a latency table."""

    family: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate_size: int
    activation: str
    norm: Literal["pre", "post"]
    input_shape: str = ""  # what else the fixed part depends on, such as an image size
    outputs: int

    @property
    def name(self) -> str:
        """Short and unique enough for a file name."""
        attention = f"a{self.heads}x{self.head_size}"
        if self.kv_heads != self.heads:
            attention += f"kv{self.kv_heads}"
        parts = [self.family, f"l{self.layers}", f"h{self.hidden_size}", attention, f"f{self.intermediate_size}"]
        return "-".join([*parts, self.activation, *([self.input_shape] if self.input_shape else []), f"o{self.outputs}"])


@dataclass(frozen=True)
class Block:
    """One prunable residual branch: `units` heads or filters, each `unit_size` columns of the output projection."""

    layer: int
    kind: Kind
    units: int
    unit_size: int

    @property
    def key(self) -> str:
        """How files name this block."""
        return f"{self.layer}.{self.kind}"

    def __str__(self) -> str:
        return f"layer {self.layer} {self.kind}"


@dataclass(frozen=True)
class Branch:
    """Where the Linear modules of a block are, as paths inside the layer."""

    producers: tuple[str, ...]  # their output rows are the units', unit after unit
    consumer: str  # the output projection: its input columns are the units', unit after unit
    entry: str  # a module whose input is the residual stream that the block's output is added to


class Family(ABC):
    """One family of models (a `model_type` of transformers)."""

    model_type: ClassVar[str]
    architectures: ClassVar[tuple[str, ...]]
    branches: ClassVar[Mapping[Kind, Branch]]
    attention: ClassVar[str]  # all that a layer's FFN sees of its attention, as a path inside the layer; returns a pair
    head: ClassVar[str]  # the Linear that puts out the logits, as a path inside the model

    @abstractmethod
    def signature(self, config: "PretrainedConfig") -> ModelSignature:
        """What the latency of a model with this configuration depends on."""

    @abstractmethod
    def layers(self, model: "PreTrainedModel") -> "nn.ModuleList":
        """The layers in forward order; each takes the hidden states first and returns them."""

    @abstractmethod
    def vanish(self, layer: Any, kind: Kind) -> None:
        """Replace a block that keeps no unit by the bias of its output projection."""

    def unit_counts(self, config: "PretrainedConfig") -> dict[Kind, int]:
        """How many units a dense block of each kind has."""
        signature = self.signature(config)
        return {"attention": signature.kv_heads, "ffn": signature.intermediate_size}
