"""How a command ends: the exit code of each kind of error."""

from __future__ import annotations

from enum import IntEnum
from importlib.util import find_spec

from clipfast.errors import (
    BuildError,
    ConfigurationError,
    DependencyError,
    OperatorError,
    ParityError,
    UnsupportedError,
)


class Exit(IntEnum):
    """Exit codes of every command. Signals are 128 + their number, as shells report them."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    ITEM_ERRORS = 3  # finished, but some items could not be encoded
    MISSING = 4  # a dependency, GPU or version
    UNSUPPORTED_OPERATOR = 5
    BUILD_FAILED = 6
    PARITY_FAILED = 7
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


_CODES: tuple[
    tuple[type[Exception], Exit], ...
] = (  # the first that fits: OperatorError is an UnsupportedError
    (ConfigurationError, Exit.USAGE),
    (OperatorError, Exit.UNSUPPORTED_OPERATOR),
    (UnsupportedError, Exit.MISSING),
    (BuildError, Exit.BUILD_FAILED),
    (ParityError, Exit.PARITY_FAILED),
)


def exit_code(error: Exception) -> Exit:
    """The exit code of an error that ended a command."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.FAILURE)


def require(module: str, *, extra: str, purpose: str) -> None:
    """Check that an optional dependency is installed.

    Raises:
        DependencyError: it is not; names the extra that brings it.
    """
    if find_spec(module) is None:
        raise DependencyError(
            f"{purpose} needs {module}, which is not installed; pip install 'clipfast[{extra}]'"
        )
