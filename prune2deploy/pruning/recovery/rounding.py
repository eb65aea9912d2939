"""Rounding: the blocks of a plan that are in a lower precision, one after the other on the prefix as it is by then.

The weights of a block go to whole numbers by the second-order rule of GPTQ (Frantar et al. 2023): column after column, what
rounding one does to the layer's output is made good by the columns that are still free. The output projection is re-fitted
before, on inputs that are already rounded; where a block stays as it is, it is re-fitted likewise, and so makes good what
the rounding of others did.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.models.block import Block, columns_of
from prune2deploy.models.family import layer_of
from prune2deploy.models.input_rounding import round_inputs_
from prune2deploy.models.plan import Plan
from prune2deploy.models.projection import linears_of, output_projection
from prune2deploy.models.surgery import shrunk_layer, write_back_
from prune2deploy.precisions import Rounding, grid_of, range_of
from prune2deploy.pruning.recovery.refit import fit_columns
from prune2deploy.pruning.statistics.linear_algebra import add_square_, inverse_, mirror_
from prune2deploy.pruning.statistics.streams import Streams

if TYPE_CHECKING:
    import torch
    from torch import nn

DAMPING = 1e-2  # of the inputs' mean square, as in GPTQ
COLUMNS = 128  # after which the columns behind are brought up to date
VALUES = 2_000_000  # of what goes into a layer, that its range is chosen on


def round_block_(streams: Streams, block: Block, plan: Plan, narrow: bool) -> dict[str, Rounding]:
    """Round, in place in the pruned model, `block`, which the walk has come to, to its precision in `plan`.

    Its inputs are rounded from then on (`input_rounding.py`). Returns how its linear layers are rounded, by their paths in
    the model; nothing of a block that is not in a lower precision, which is only re-fitted.

    Args:
        streams: of the dense model and of one to which `plan` is applied, masked.
        block: it keeps one unit at least.
        plan: see above.
        narrow: see `precisions.Format`.
    """
    precision, kept = plan.precision(block), plan.units(block)
    projection = output_projection(streams.pruned, block)
    if precision is None:
        fit_columns(projection, columns_of(kept, block.unit_size), streams.statistics(block, kept))
        return {}
    layer = layer_of(streams.pruned, block)
    own = [other for other in streams.blocks_in_order if other.root == block.root]
    small = shrunk_layer(layer, {other: plan.units(other) for other in own})
    linears = linears_of(small, block)
    seen = Inputs(linears)
    for place in range(len(streams.places)):
        seen.add(streams.given(small, block, place, linears))
    found: dict[str, Rounding] = {}
    *before, last = linears
    for path in before:
        found[path] = _round_(linears[path], precision, narrow, seen.second_moment(path), seen.range(path))
    round_inputs_(small, {**found, last: Rounding(precision, np.ones((1, 1)), *seen.range(last))})
    every = list(range(len(kept)))
    statistics = streams.statistics(block, kept, small=small)
    fit_columns(linears[last], columns_of(every, block.unit_size), statistics)
    fitted = linears[last].weight.detach().double()
    found[last] = _round_(linears[last], precision, narrow, statistics.centred()[0], seen.range(last))
    _mend_mean_(linears[last], fitted, statistics.x_sum / statistics.n)
    write_back_(small, layer, block, kept)
    round_inputs_(layer, found)
    return {f"{block.root}.{path}": rounding for path, rounding in found.items()}


class Inputs:
    """What goes into linear layers: second moments, and a sample of the values."""

    def __init__(self, linears: "dict[str, nn.Linear]"):
        import torch

        sizes = {path: module.in_features for path, module in linears.items()}
        self.squares = {path: torch.zeros(size, size) for path, size in sizes.items()}
        self.values: dict[str, list[np.ndarray]] = {path: [] for path in linears}
        self.count = 0

    def add(self, given: "dict[str, torch.Tensor]") -> None:
        """Add rows, [tokens, inputs], by the path of the layer."""
        for path, rows in given.items():
            add_square_(self.squares[path], rows.cpu())
            if sum(map(np.size, self.values[path])) < VALUES:
                self.values[path].append(rows.cpu().numpy())
        self.count += 1

    def second_moment(self, path: str) -> "torch.Tensor":
        """[inputs, inputs] float64, up to a factor."""
        mirror_(self.squares[path])
        return self.squares[path].double()

    def range(self, path: str) -> tuple[float, float]:
        """The range of what goes into a layer."""
        return range_of(np.concatenate([rows.ravel() for rows in self.values[path]]))


def _round_(
    module: "nn.Linear", precision: str, narrow: bool, moment: "torch.Tensor", limits: tuple[float, float]
) -> Rounding:
    """Round the weight of `module`, in place. `moment`: of its inputs, spoilt; `limits`: of their range."""
    import torch

    weight = module.weight.detach().cpu().numpy()
    grid = grid_of(weight, precision, narrow)
    rounded = second_order(weight, moment.cpu(), grid)
    module.weight = torch.nn.Parameter(torch.from_numpy(rounded).to(module.weight), requires_grad=False)
    low, high = limits if grid.format.inputs == "static" else (0.0, 0.0)
    return Rounding(precision, grid.scale, low, high, narrow)


def second_order(weight: np.ndarray, moment: "torch.Tensor", grid: Rounding) -> np.ndarray:
    """`weight` on `grid`, so that Σ ‖(W − Ŵ) x‖² is small (GPTQ, Frantar et al. 2023, algorithm 1).

    Args:
        weight: [outputs, inputs]; left as it is.
        moment: [inputs, inputs] float64, of the inputs, up to a factor; spoilt.
        grid: see above.
    """
    import torch

    inputs = weight.shape[1]
    moment.diagonal().add_(max(DAMPING * float(moment.trace()) / inputs, 1e-12))
    factor = torch.linalg.cholesky(inverse_(moment), upper=True).numpy()
    left, done = weight.astype(np.float64), np.empty(weight.shape)
    for start in range(0, inputs, COLUMNS):
        stop = min(start + COLUMNS, inputs)
        errors = np.empty((len(weight), stop - start))
        for column in range(start, stop):
            one = slice(column, column + 1)
            done[:, one] = grid.nearest(left[:, one], one)
            error = (left[:, one] - done[:, one]) / factor[column, column]
            left[:, column:stop] -= error * factor[column, column:stop]
            errors[:, column - start] = error[:, 0]
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    return done


def _mend_mean_(module: "nn.Linear", before: "torch.Tensor", mean: "torch.Tensor") -> None:
    """Give the bias of `module`, in place, what rounding took from the mean of its output."""
    import torch

    if module.bias is not None:
        with torch.no_grad():
            module.bias.add_(((before - module.weight.double()) @ mean).to(module.bias))


def in_order(streams: Streams, plan: Plan, narrow: bool) -> "Iterable[tuple[Block, dict[str, Rounding]]]":
    """Round block after block as `round_block_` does, from the first that is in a lower precision on."""
    begun = False
    for block in streams.blocks():
        begun = begun or plan.precision(block) is not None
        yield block, round_block_(streams, block, plan, narrow) if begun and plan.units(block) else {}
