"""Every error a user can meet: each says what was got, what was expected, and what to do."""

from __future__ import annotations

from typing import Literal, get_args

InputErrorCode = Literal[
    "unidentified_image",
    "truncated_image",
    "corrupt_image",
    "image_too_large",
    "unsupported_format",
    "unreadable_file",
    "wrong_type",
    "wrong_shape",
    "non_finite",
    "text_too_long",
    "invalid_text",
]
INPUT_ERROR_CODES: tuple[str, ...] = get_args(InputErrorCode)


class ClipfastError(Exception):
    """Base of every error that clipfast raises on purpose."""


class CheckpointError(ClipfastError):
    """A weight file cannot be loaded: unsafe, broken, unknown, ambiguous, or not matching its architecture."""


class UnsupportedError(ClipfastError):
    """What was asked for cannot be served here; the message says why, and what can."""


class DependencyError(UnsupportedError):
    """A package, driver, device or version that this needs is missing."""


class OperatorError(UnsupportedError):
    """A graph holds an operator, or a use of one, that its target cannot run."""


class BuildError(ClipfastError):
    """A compiler rejected a graph, or gave no engine for it."""


class ParityError(ClipfastError):
    """An export does not compute what its model computes."""


class ConfigurationError(ClipfastError, ValueError):
    """An argument or environment variable has a value outside what is documented."""


class DeviceMemoryError(ClipfastError, MemoryError):
    """The device has too little memory even for one item at a time."""


class ForkedProcessError(ClipfastError, RuntimeError):
    """A model was used in a process forked from the one that loaded it."""


class InputError(ClipfastError, ValueError):
    """One input (an image or a text) cannot be encoded.

    Attributes:
        code: one of INPUT_ERROR_CODES.
        index: position of the input in its batch, or None when it was given alone.
        message: the sentence, without the position.
    """

    def __init__(self, message: str, *, code: InputErrorCode, index: int | None = None) -> None:
        if code not in INPUT_ERROR_CODES:
            raise ValueError(f"unknown input error code {code!r}")
        super().__init__(message if index is None else f"input {index}: {message}")
        self.message = message
        self.code: InputErrorCode = code
        self.index = index

    def at(self, index: int) -> InputError:
        """The same error, naming the position of the input in its batch."""
        return InputError(self.message, code=self.code, index=index)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_input_error, (self.message, self.code, self.index)


def _rebuild_input_error(message: str, code: InputErrorCode, index: int | None) -> InputError:
    return InputError(message, code=code, index=index)
