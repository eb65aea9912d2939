"""What the pruned model must keep to."""

from typing import Literal

from pydantic import Field, model_validator

from prune2deploy.errors import InputError
from prune2deploy.files import Record

BudgetKind = Literal["latency_ms", "speedup", "flops", "none"]


def refuse_silly_loss(max_loss: float | None) -> None:
    """Raise InputError where `max_loss`, if given, is no number of points that may be lost."""
    if max_loss is not None and not 0 <= max_loss < float("inf"):
        raise InputError(f"--max-loss {max_loss:g}: give the points that may be lost, 0 or more")


class Budget(Record):
    """`latency_ms`: milliseconds over the workload; `speedup`: dense over pruned; `flops`: share of the dense FLOPs.

    `none`: of the dense model, which promises nothing.
    """

    kind: BudgetKind
    value: float = Field(gt=0)

    @model_validator(mode="after")
    def _sane(self) -> "Budget":
        if self.kind == "speedup" and self.value <= 1:
            raise ValueError("a speedup is larger than 1")
        if self.kind == "flops" and self.value >= 1:
            raise ValueError("a share of the dense FLOPs is smaller than 1")
        return self

    @classmethod
    def of(cls, latency_ms: float | None, speedup: float | None, flops: float | None = None) -> "Budget":
        """The one budget that is given; raises InputError where it is none, several, or no sensible number."""
        given = {"latency_ms": latency_ms, "speedup": speedup, "flops": flops}
        chosen = [(kind, value) for kind, value in given.items() if value is not None]
        if len(chosen) != 1:
            raise InputError("give one budget: --latency-ms or --speedup (prune: or --flops); or only --max-loss")
        kind, value = chosen[0]
        option = "--" + kind.replace("_", "-")
        if not value > 0 or value == float("inf"):
            raise InputError(f"{option} {value:g}: a budget is a number above 0")
        if kind == "speedup" and value <= 1:
            raise InputError(f"{option} {value:g}: a speedup is larger than 1 (2 means twice as fast)")
        if kind == "flops" and value >= 1:
            raise InputError(f"{option} {value:g}: give the share of the dense FLOPs to keep, below 1")
        return cls(kind=kind, value=value)

    @property
    def timed(self) -> bool:
        """Whether it limits the latency."""
        return self.kind in ("latency_ms", "speedup")

    def limit_ms(self, dense_ms: float) -> float:
        """The latency that this budget allows where the dense model takes `dense_ms`."""
        return self.value if self.kind == "latency_ms" else dense_ms / self.value

    @property
    def slug(self) -> str:
        """Short enough for a file name: 2x, 5ms."""
        return f"{self.value:g}" + {"speedup": "x", "latency_ms": "ms", "flops": "flops", "none": "none"}[self.kind]

    def __str__(self) -> str:
        if self.kind == "latency_ms":
            return f"{self.value:g} ms"
        if self.kind == "none":
            return "none"
        return f"{self.value:g}× speedup" if self.kind == "speedup" else f"{self.value:g} of the dense FLOPs"
