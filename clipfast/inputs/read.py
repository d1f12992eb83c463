"""Encoded image sources to bytes: paths, bytes and file objects, with sentences for what cannot be read."""

from __future__ import annotations

import os
import stat
from typing import Any

from clipfast.errors import InputError


def read_source(source: object, max_bytes: int) -> bytes:
    """The encoded bytes of one image.

    Args:
        source: a path (str or PathLike), bytes-like data, or a binary file object, read from its position.
        max_bytes: refuse more.
    Raises: InputError unreadable_file, image_too_large or wrong_type.
    """
    if isinstance(source, bytes):
        return source
    if isinstance(source, bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str | os.PathLike):
        return _read_path(os.fspath(source), max_bytes)
    if hasattr(source, "read"):
        return _read_object(source)
    raise InputError(
        f"got {type(source).__name__}, expected a path, bytes, a file object, a PIL image or a uint8 array",
        code="wrong_type",
    )


def _read_path(path: str | bytes, max_bytes: int) -> bytes:
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", closefd=True) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _unreadable(path, "not a regular file")
            if status.st_size > max_bytes:
                raise InputError(
                    f"{_shown(path)} holds {status.st_size} bytes where at most {max_bytes} are read; raise "
                    "max_bytes to allow it",
                    code="image_too_large",
                )
            return file.read()
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    except ValueError as error:  # an embedded NUL, or characters the file system cannot encode
        if isinstance(error, InputError):
            raise
        raise _unreadable(path, str(error)) from None


def _read_object(source: Any) -> bytes:
    try:
        data = source.read()
    except (OSError, ValueError) as error:
        raise InputError(
            f"the file object cannot be read: {error}", code="unreadable_file"
        ) from None
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InputError(
            f"read() of the file object gave {type(data).__name__}, expected bytes; open it in binary mode",
            code="wrong_type",
        )
    if not data:
        raise InputError(
            "the file object is at its end; seek(0) before passing it", code="unidentified_image"
        )
    return bytes(data)


def _unreadable(path: str | bytes, reason: str) -> InputError:
    return InputError(f"{_shown(path)} cannot be read: {reason}", code="unreadable_file")


def _shown(path: str | bytes) -> str:
    """The path escaped (surrogates, newlines) and cut to a line."""
    text = ascii(os.fsdecode(path))
    return text if len(text) <= 200 else f"{text[:197]}..."
