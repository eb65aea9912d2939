"""Several processes that calibrate together, as `torchrun` starts them; without it, one alone.

Each takes its share of the batches, and the sums are added up; then the first goes on alone.
"""

import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from prune2deploy.errors import InputError

if TYPE_CHECKING:
    import numpy as np


class ShareDone(Exception):  # noqa: N818 (no error: this process has nothing left to do)
    """Raised in every process but the first once statistics are taken."""


@dataclass(frozen=True)
class Team:
    """One process among `size`."""

    rank: int
    size: int

    @property
    def leads(self) -> bool:
        """Whether this is the process that goes on alone, writes and talks."""
        return self.rank == 0

    def add_up(self, *arrays: "np.ndarray") -> None:
        """Put, in place of each array, the sum of what all processes have there."""
        if self.size == 1:
            return
        import torch

        for array in arrays:
            torch.distributed.all_reduce(torch.from_numpy(array))


def is_first() -> bool:
    """Whether this process is alone or the first of several, told before they have met."""
    return os.environ.get("RANK", "0") == "0"


def refuse_team(command: str) -> None:
    """Raise InputError where there are several processes: `command` cannot be shared among them."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError(f"{command} measures latency, which takes one process: only prune and frontier run under torchrun")


@cache
def team() -> Team:
    """The processes that this one belongs to; joins them when first called. Raises InputError where they do not meet."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        return Team(0, 1)
    import atexit

    import torch

    try:
        torch.distributed.init_process_group("gloo")
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"WORLD_SIZE is {size}, but the processes do not find each other ({str(error).splitlines()[0]}); start them "
            "with torchrun"
        ) from None
    atexit.register(torch.distributed.destroy_process_group)
    return Team(torch.distributed.get_rank(), torch.distributed.get_world_size())
