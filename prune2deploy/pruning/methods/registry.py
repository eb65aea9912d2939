"""From a name to its method."""

from prune2deploy.errors import InputError
from prune2deploy.pruning.methods.fisher import FisherMethod
from prune2deploy.pruning.methods.hawq import HawqMethod
from prune2deploy.pruning.methods.kprune import KPruneMethod
from prune2deploy.pruning.methods.kwon import KwonMethod
from prune2deploy.pruning.methods.magnitude import MagnitudeMethod
from prune2deploy.pruning.methods.method import Method
from prune2deploy.pruning.methods.optin import OptinMethod
from prune2deploy.pruning.methods.ours import OursMethod
from prune2deploy.pruning.methods.ziplm import ZipLmMethod

_ALL: tuple[type[Method], ...] = (
    OursMethod, FisherMethod, KwonMethod, ZipLmMethod, KPruneMethod, OptinMethod, MagnitudeMethod, HawqMethod,
)  # fmt: skip
METHODS = {method.name: method for method in _ALL}
DEFAULT_METHOD = OursMethod.name


def method_named(name: str) -> type[Method]:
    """The method called `name`; raises InputError, naming those there are."""
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; known are: {', '.join(sorted(METHODS))}")
    return METHODS[name]
