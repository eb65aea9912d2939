"""What least squares over the outputs of a block need to know of its inputs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prune2deploy.pruning.statistics.linear_algebra import add_square_, mirror_

if TYPE_CHECKING:
    import torch

ROUNDING = 1e-12  # of the mean square: variance that sums in float64 make of constants
PARTIAL = 8  # batches whose products are added up in float32: adding to float64 takes as long as the product itself


@dataclass
class BlockStatistics:
    """Weighted sums over the valid tokens. x: [k] inputs of the kept columns; y: [d] what the block should put out."""

    n: float  # Σ of the weights
    x_sum: "torch.Tensor"  # [k]
    y_sum: "torch.Tensor"  # [d]
    xx: "torch.Tensor"  # [k, k], Σ x xᵀ
    xy: "torch.Tensor"  # [k, d], Σ x yᵀ

    @classmethod
    def none(cls, k: int, d: int, device: "torch.device") -> "BlockStatistics":
        """Of no tokens."""
        import torch

        shapes = ((k,), (d,), (k, k), (k, d))
        return cls(0.0, *(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def of(self, columns: "torch.Tensor") -> "BlockStatistics":
        """The same of some of the columns."""
        return BlockStatistics(
            self.n, self.x_sum[columns], self.y_sum, self.xx[columns[:, None], columns], self.xy[columns]
        )

    def centred(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """(Σ (x − x̄)(x − x̄)ᵀ, Σ (x − x̄)(y − ȳ)ᵀ), each over n; zero where nothing but rounding is left of x."""
        x, y = self.x_sum / self.n, self.y_sum / self.n
        xx, xy = self.xx / self.n, self.xy / self.n
        rounding = ROUNDING * float(xx.trace())
        xx.addr_(x, x, alpha=-1)
        xy.addr_(x, y, alpha=-1)
        if float(xx.trace()) <= rounding:
            return xx.zero_(), xy.zero_()
        return xx, xy


class Sums:
    """Adds up `BlockStatistics`, batch by batch, for a start in float32.

    Everything is shifted by the first batch's means meanwhile: where means are large against the spread, as of the massive
    activations of decoders, products in float32 would hold nothing else.
    """

    def __init__(self, k: int, d: int, device: "torch.device"):
        self.total = BlockStatistics.none(k, d, device)
        self.xx, self.xy = self.total.xx.float(), self.total.xy.float()
        self.shifts: tuple[torch.Tensor, torch.Tensor] | None = None
        self.pending = 0

    def add(self, x: "torch.Tensor", y: "torch.Tensor", weight: "torch.Tensor") -> None:
        """Add tokens: x, [n, k], and y, [n, d], which are spoilt, and what each counts, [n]."""
        import torch

        if self.shifts is None:
            self.shifts = x.mean(0), y.mean(0)
        root = weight.sqrt()[:, None]  # on both sides of a product
        x.sub_(self.shifts[0]).mul_(root)
        y.sub_(self.shifts[1]).mul_(root)
        self.total.n += float(weight.sum(dtype=torch.float64))
        self.total.x_sum += root[:, 0] @ x
        self.total.y_sum += root[:, 0] @ y
        add_square_(self.xx, x)
        self.xy.addmm_(x.T, y)
        self.pending += 1
        if self.pending == PARTIAL:
            self._settle()

    def statistics(self) -> BlockStatistics:
        """Of all that was added, as it was before the shift."""
        self._settle()
        total = self.total
        mirror_(total.xx)
        if self.shifts is not None:
            x, y = (shift.double() for shift in self.shifts)
            total.xx.addr_(total.x_sum, x).addr_(x, total.x_sum).addr_(x, x, alpha=total.n)
            total.xy.addr_(total.x_sum, y).addr_(x, total.y_sum).addr_(x, y, alpha=total.n)
            total.x_sum += total.n * x
            total.y_sum += total.n * y
        return total

    def _settle(self) -> None:
        for total, partial in ((self.total.xx, self.xx), (self.total.xy, self.xy)):
            total += partial
            partial.zero_()
        self.pending = 0
