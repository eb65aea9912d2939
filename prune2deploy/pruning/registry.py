"""From a name to its method."""

from prune2deploy.errors import InputError
from prune2deploy.pruning.fisher import FisherMethod
from prune2deploy.pruning.kwon import KwonMethod
from prune2deploy.pruning.method import Method

METHODS: dict[str, type[Method]] = {method.name: method for method in (FisherMethod, KwonMethod)}
DEFAULT_METHOD = FisherMethod.name


def method_named(name: str) -> type[Method]:
    """The method called `name`; raises InputError, naming those there are."""
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; known are: {', '.join(sorted(METHODS))}")
    return METHODS[name]
