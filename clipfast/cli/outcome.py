"""How a command ends: its exit codes, and the one error that commands raise themselves."""

from __future__ import annotations

from enum import IntEnum
from importlib.util import find_spec

from clipfast.errors import (
    BuildError,
    ClipfastError,
    ConfigurationError,
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


class CommandError(ClipfastError):
    """A command cannot go on.

    Attributes:
        code: what the process exits with.
    """

    def __init__(self, message: str, code: Exit = Exit.FAILURE) -> None:
        super().__init__(message)
        self.code = code


# A class stands before its bases.
_CODES: tuple[tuple[type[ClipfastError], Exit], ...] = (
    (ConfigurationError, Exit.USAGE),
    (OperatorError, Exit.UNSUPPORTED_OPERATOR),
    (UnsupportedError, Exit.MISSING),
    (BuildError, Exit.BUILD_FAILED),
    (ParityError, Exit.PARITY_FAILED),
)


def exit_code(error: Exception) -> Exit:
    """The exit code of an error that ended a command."""
    if isinstance(error, CommandError):
        return error.code
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return Exit.FAILURE


def require(module: str, *, extra: str, purpose: str) -> None:
    """Check that an optional dependency is installed.

    Raises:
        CommandError: with Exit.MISSING, naming the extra that brings it.
    """
    if find_spec(module) is None:
        raise CommandError(
            f"{purpose} needs {module}, which is not installed; pip install 'clipfast[{extra}]'",
            Exit.MISSING,
        )
