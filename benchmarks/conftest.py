"""Options, cells and fixtures of the benchmarks.

pytest benchmarks                      measure, print
pytest benchmarks --bench-save         and merge into benchmarks/results/<machine>.json
pytest benchmarks --bench-check        and fail where ours fell behind that file
pytest benchmarks --benchmark-disable  every suite once, in this process, on the demo model, without peers
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from benchmarks.cells import Cell, cells, check_once
from benchmarks.machine import commit_info, machine_info, machine_name
from benchmarks.throughput import Pool, compete

RESULTS = Path(__file__).parent / "results"
_ABSENT = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("clipfast")
    group.addoption("--bench-save", action="store_true", help="merge into the machine's results")
    group.addoption("--bench-check", action="store_true", help="compare with the machine's results")
    group.addoption("--bench-results", type=Path, metavar="DIR", default=RESULTS)
    group.addoption("--bench-pairs", type=int, metavar="N", help="pairs a cell (default 20)")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ABSENT] = {}
    if config.getoption("--bench-check") and not _file(config).is_file():
        raise pytest.UsageError(
            f"no committed results for this machine ({machine_name()}): run make bench first"
        )
    if config.getoption("--bench-save"):
        _file(config).parent.mkdir(exist_ok=True)
        config.option.benchmark_json = str(_file(config))


def _file(config: pytest.Config) -> Path:
    folder: Path = config.getoption("--bench-results")
    return folder / f"{machine_name()}.json"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """test_<task>(throughput, cell) gets the cells of its task, or a single one when nothing is measured."""
    if "cell" in metafunc.fixturenames:
        task = metafunc.function.__name__.removeprefix("test_")
        once = metafunc.config.getoption("benchmark_disable")
        chosen = cells(task, threads=len(os.sched_getaffinity(0)), once=once)
        metafunc.parametrize("cell", chosen, ids=[cell.name for cell in chosen])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("benchmark_disable"):
        for item in items:
            item.add_marker(pytest.mark.timeout(0))  # a cell takes as long as it takes


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    kept = Pool()
    yield kept
    kept.close()


@pytest.fixture(scope="session")
def weights() -> Iterator[Callable[[str], str]]:
    """Model -> folder of random full-size weights, written when first asked for, gone with the session."""
    from benchmarks.weights import write_weights

    with tempfile.TemporaryDirectory(prefix="clipfast-bench-") as folder:
        yield lambda model: write_weights(model, Path(folder))


@pytest.fixture
def throughput(
    request: pytest.FixtureRequest, benchmark: Any, weights: Callable[[str], str]
) -> Callable[[Cell], None]:
    """Measure one cell: ours against its peer, or ours alone and once under --benchmark-disable."""

    def measure(cell: Cell) -> None:
        benchmark.group = cell.group
        if not benchmark.enabled:
            check_once(benchmark, cell)
            return
        pairs = request.config.getoption("--bench-pairs") or cell.pairs
        try:
            compete(benchmark, request.getfixturevalue("pool"), cell.at(weights), cell.peer, pairs)
        except pytest.skip.Exception as reason:
            benchmark.skipped = True
            request.config.stash[_ABSENT][request.node.nodeid] = str(reason)
            raise

    return measure


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return machine_info()


def pytest_benchmark_generate_commit_info(config: pytest.Config) -> dict[str, Any]:
    return commit_info()


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]
) -> None:
    """Cells that were not measured this time stay as the file has them."""
    previous = results.read(_file(config)) if config.getoption("--bench-save") else None
    results.merge(output_json, config.stash[_ABSENT], previous)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if not session.config.getoption("--bench-check"):
        return
    measured = session.config._benchmarksession.benchmarks  # noqa: SLF001  (pytest-benchmark offers no other way)
    behind = results.behind(
        results.read(_file(session.config)), [bench.as_dict() for bench in measured]
    )
    for sentence in behind:
        print(f"\n{sentence}")
    if behind:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
