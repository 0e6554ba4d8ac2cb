"""What all tests share: one thread where bits must repeat, bytecode on disk, and no network."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator

import pytest
from measured import note

# tests start hundreds of processes, and importing torch and timm takes one of them 12 s without bytecode on disk, 5 s with it
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes with two spinning threads each crawl on two cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("SVGBENCH_RANK_TIMEOUT_MINUTES", "3")
_cache = tempfile.TemporaryDirectory(prefix="svgbench-cache-")  # never the one of the person who tests
os.environ["SVGBENCH_CACHE"] = _cache.name


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault", action="append", default=[], help="Run the tests of a row of the fault plan only: F6. Repeatable.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the tests of the rows that ``--fault`` names."""
    if wanted := set(config.getoption("--fault")):
        kept = [item for item in items if wanted & _rows(item).keys()]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Notes the outcome of a test of the fault plan for the table of reliability."""
    report = yield
    if report.when == "call" and not report.skipped:
        for row, trials in _rows(item).items():
            note("SVGBENCH_RELIABILITY", fault=row, trials=trials, violations=int(report.failed))
    return report


def _rows(item: pytest.Item) -> dict[str, int]:
    """Row of the fault plan -> trials, of the marks ``fault("F6", trials=80)`` on a test and its module."""
    return {row: mark.kwargs.get("trials", 1) for mark in item.iter_markers("fault") for row in mark.args}
