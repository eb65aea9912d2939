"""Errors that a user can cause.

Each message is one line: what is wrong, where, and what to do. The command line prints it and exits with `exit_code`.
"""

import math


def reason_of(error: BaseException, limit: int = 200) -> str:
    """What a library's exception says, on one line: its first line that says anything, or its kind."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, KeyError):
        said = f"nothing is called {said}"
    return (said or type(error).__name__)[:limit]


class Prune2DeployError(Exception):
    """Root of every error this package raises on purpose."""

    exit_code = 2

    def __init__(self, message: str = ""):
        super().__init__(" ".join(message.splitlines()))  # names of files may hold line breaks


class InputError(Prune2DeployError):
    """Something the user gave (a file, an option, a model, data) cannot be used."""


class NotServableError(InputError):
    """A server cannot make the model's inputs of texts or images; clients, who send inputs, are not concerned."""


class MissingPackageError(Prune2DeployError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str):
        super().__init__(
            f"{package} is not installed, and this step needs it: pip install 'prune2deploy[{extra}]'"
        )


class UnreachableBudgetError(Prune2DeployError):
    """The budget is below what removing everything removable would reach."""

    def __init__(self, budget: float, reachable: float, unit: str = "ms"):
        self.reachable = reachable
        digits = 3 - math.floor(math.log10(reachable)) if reachable > 0 else 0
        reachable = math.ceil(reachable * 10.0**digits) / 10.0**digits  # rounded up: the number given can be asked for
        super().__init__(
            f"a budget of {budget:.4g} {unit} is out of reach: with every block removed the model still takes "
            f"{reachable:.4g} {unit}; ask for that or more, or choose a smaller workload"
        )


class StoppedError(Prune2DeployError):
    """Ctrl-C in work that cannot go on where it was."""

    exit_code = 130


class UnstableMeasurementError(Prune2DeployError):
    """The machine is too noisy to measure on."""

    exit_code = 1


class WaitedInVainError(UnstableMeasurementError):
    """The machine was given time to become quiet, and did not."""


class ContradictionError(UnstableMeasurementError):
    """What was measured does not fit together, so that none of it counts."""


class CheckFailedError(Prune2DeployError):
    """A result does not keep its promise, so it is not presented as done."""

    exit_code = 1


class BudgetMissedError(CheckFailedError):
    """The exported artifact is slower than its budget, and nothing else is wrong with it.

    `used`: the share of the budget that it takes, above 1.
    """

    def __init__(self, message: str, used: float):
        super().__init__(message)
        self.used = used


class LossExceededError(CheckFailedError):
    """The exported artifact loses more points than it may, and nothing else is wrong with it."""
