"""The command as a process: quick help, exit codes, signals, pipes, one line an error."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from clipfast.cli import main
from clipfast.cli.outcome import Exit, exit_code, require
from clipfast.cli.registry import COMMANDS
from clipfast.errors import (
    BuildError,
    CheckpointError,
    ConfigurationError,
    DependencyError,
    InputError,
    OperatorError,
    ParityError,
    UnsupportedError,
)

COMMAND = [sys.executable, "-m", "clipfast"]


def processor_seconds(command):
    """User and system time of a process: what its wall time is on a machine that does nothing else."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["embed", "--help"]])
def test_answers_in_under_0_2_seconds(arguments):
    assert min(processor_seconds([*COMMAND, *arguments]) for _ in range(5)) < 0.2


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_imports_neither_torch_nor_numpy(name):
    program = (
        "import sys\nfrom clipfast.cli import main\n"
        f"try: main(['{name}', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "loaded = {'torch', 'numpy', 'PIL'} & set(sys.modules)\nassert not loaded, loaded"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith(f"usage: clipfast {name}")


@pytest.mark.parametrize("module", ["clipfast", "clipfast.cli"])
def test_runs_as_a_module(module):
    command = [sys.executable, "-m", module]
    finished = subprocess.run([*command, "--version"], capture_output=True, text=True)
    assert (finished.returncode, finished.stdout) == (0, f"clipfast {version('clipfast')}\n")
    finished = subprocess.run([*command, "no-such-command"], capture_output=True, text=True)
    assert finished.returncode == Exit.USAGE
    assert finished.stderr.startswith("usage: clipfast ")


def test_help_lists_every_command_with_its_line(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"^    {name}\s+{COMMANDS[name].help[:20]}", out, re.MULTILINE)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["bench", "--batch-size", "0"],
        ["bench", "--seconds", "nan"],
        ["embed"],
    ],
)
def test_usage_errors_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == Exit.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usage: clipfast" in captured.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CheckpointError("x"), 1),
        (InputError("x", code="wrong_type"), 1),
        (OSError("x"), 1),
        (ConfigurationError("x"), 2),
        (UnsupportedError("x"), 4),
        (DependencyError("x"), 4),
        (OperatorError("x"), 5),
        (BuildError("x"), 6),
        (ParityError("x"), 7),
    ],
)
def test_exit_code_of_each_error(error, code):
    assert exit_code(error) == code


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--model", "no-such-model"], 1, "'no-such-model' is no published name"),
        (["--precision", "fp9"], 2, "precision='fp9'"),
        (["--device", "cuda"], 4, "no CUDA device is usable"),
    ],
)
def test_an_error_is_one_line_on_stderr(options, code, sentence, model_folder, capsys):
    if "cuda" in options and Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    assert main(["bench", "--model", model_folder, *options]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("clipfast bench: ")
    assert sentence in lines[0]


def test_a_missing_dependency_names_the_extra():
    with pytest.raises(DependencyError, match=r"needs no_such_module.*clipfast\[bulk\]"):
        require("no_such_module", extra="bulk", purpose="embed")


def test_a_reader_that_leaves_is_no_error_message():
    """`clipfast models | head -1`: quiet, and 128 + SIGPIPE as other programs."""
    process = subprocess.Popen(
        [*COMMAND, "models", "B/32"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": ""},  # what is buffered is what fails at exit
    )
    assert process.stdout is not None
    process.stdout.close()
    _, complaint = process.communicate()
    assert (process.returncode, complaint) == (Exit.BROKEN_PIPE, b"")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, Exit.INTERRUPTED), (signal.SIGTERM, Exit.TERMINATED)]
)
def test_signals(number, code, model_folder):
    process = subprocess.Popen(
        [*COMMAND, "bench", "--model", model_folder, "--batch-size", "1", "--seconds", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == b"batch size 1 ...\n"
    process.send_signal(number)
    out, complaint = process.communicate(timeout=60)
    assert (process.returncode, out, complaint) == (code, b"", b"")


def test_verbose_logs_the_choices_to_stderr(model_folder):
    finished = subprocess.run(
        [
            *COMMAND,
            "-v",
            "bench",
            "--model",
            model_folder,
            "--batch-size",
            "1",
            "--seconds",
            "0.01",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "INFO clipfast: loaded" in finished.stderr
    assert "INFO" not in finished.stdout
