"""Talking to a Triton server that serves what `export` made. `served/` is what runs inside the server."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prune2deploy.serving.client import Client, Prediction

__all__ = ["Client", "Prediction"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from prune2deploy.serving import client

    return getattr(client, name)
