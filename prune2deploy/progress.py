"""How long work tells how far it is: the stages talk to a `Progress`, the command line gives them one with bars."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[], None]


class Progress:
    """The silent default, used by the Python API."""

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Advance]:
        """Announce `total` steps; the block calls what it is given once a step."""
        yield lambda: None

    @contextmanager
    def countdown(self, description: str, seconds: float) -> Iterator[Callable[[float], None]]:
        """Announce a wait of at most `seconds`; the block says now and then how many are left."""
        yield lambda left: None

    def note(self, message: str) -> None:
        """Say something that stays on the screen."""
