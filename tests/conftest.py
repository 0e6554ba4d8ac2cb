"""What all tests share: one thread where bits must repeat, bytecode on disk, and no network."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator

import forks  # noqa: F401  (forks of a test process get a thread pool of their own)
import pytest
from faults import rows_of
from measured import note

# tests start hundreds of processes, and importing torch and timm takes one of them 12 s without bytecode on disk, 5 s with it
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes with two spinning threads each crawl on two cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("SVGBENCH_PRESET", "tiny")  # where a test names no preset: the smallest one
os.environ.setdefault("SVGBENCH_RANK_TIMEOUT_MINUTES", "3")
_cache = tempfile.TemporaryDirectory(prefix="svgbench-cache-")  # never the one of the person who tests
os.environ["SVGBENCH_CACHE"] = _cache.name


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault", action="append", default=[], help="Run the tests of a row of the fault plan only: F6. Repeatable.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the tests of the rows that ``--fault`` names; ``--fault all`` those of any row. The slow ones come first, so that at the end
    no process waits for another."""
    if wanted := set(config.getoption("--fault")):
        kept = [item for item in items if (rows := _rows(item)) and (wanted & {"all", *rows})]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[pytest.TestReport]:
    """Notes a test of the fault plan: its trials (a property of the test, else one) and whether it failed."""
    report = yield
    if report.when == "call" and not report.skipped:
        trials = dict(item.user_properties).get("trials", 1)
        for row in _rows(item):
            note("SVGBENCH_RELIABILITY", fault=row, trials=trials, violations=int(report.failed))
    return report


def _rows(item: pytest.Item) -> list[str]:
    """The rows of the fault plan that a test belongs to."""
    return rows_of(item.nodeid.removeprefix("tests/"))
