"""The `clipfast` command.

    clipfast COMMAND [options]

Results go to stdout, progress and messages to stderr. Only the chosen command's module is imported, and it imports
torch in its `run`, so that `clipfast --help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from clipfast.cli.outcome import Exit, exit_code
from clipfast.cli.registry import COMMANDS
from clipfast.errors import ClipfastError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (`outcome.Exit`).

    Args:
        arguments: what follows the program's name; sys.argv[1:] when None.
    Raises:
        SystemExit: --help and --version (0), a usage error (2), SIGTERM (143).
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser(arguments).parse_args(arguments)
    _log_to_stderr(options.verbose)
    try:
        with _sigterm_exits():
            code: int = importlib.import_module(COMMANDS[options.command].module).run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
        return Exit.BROKEN_PIPE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except (ClipfastError, OSError) as error:
        print(f"clipfast {options.command}: {_one_line(error)}", file=sys.stderr)
        return exit_code(error)
    return code


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Every command with its help line; options only for the one that is asked for."""
    parser = argparse.ArgumentParser(
        prog="clipfast",
        description="Images and texts to CLIP embeddings, fast and exact.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=26),
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    parser.add_argument("-v", "--verbose", action="store_true", help="log every choice to stderr")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    asked_for = next((word for word in arguments if not word.startswith("-")), None)
    for name, command in COMMANDS.items():
        child = commands.add_parser(name, help=command.help, description=command.help)
        if name == asked_for:
            importlib.import_module(command.module).add_arguments(child)
    return parser


class _Version(argparse.Action):
    """--version: importlib.metadata is imported only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:  # noqa: A002
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print(f"clipfast {version('clipfast')}")
        parser.exit(Exit.OK)


def _log_to_stderr(verbose: bool) -> None:
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("clipfast").setLevel(logging.INFO if verbose else logging.WARNING)


@contextmanager
def _sigterm_exits() -> Iterator[None]:
    """SIGTERM unwinds the stack, so that half-written files are removed. Only the main thread may handle signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(Exit.TERMINATED)


def _discard_stdout() -> None:
    """Whoever read our output has left: nothing more is written, nor complained about at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
