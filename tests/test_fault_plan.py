"""Every test that the fault plan names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from faults import FAULTS, rows_of

HERE = Path(__file__).parent


@pytest.mark.parametrize("row", FAULTS)
def test_each_pattern_of_a_row_meets_a_test(row):
    for pattern in FAULTS[row].tests:
        place, _, words = pattern.partition("::")
        files = [HERE / place] if (HERE / place).is_file() else sorted((HERE / place).glob("test_*.py"))
        names = [name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)]
        assert any(words in name for name in names), pattern


def test_a_test_is_found_by_its_file_and_words():
    assert rows_of("metrics/test_mutations.py::test_a_mistake_is_noticed[BGR]") == ["F19"]
    assert "F2" in rows_of("machine/test_resume.py::test_killed_at_a_failpoint_and_resumed_equals_the_uninterrupted_run[x]")
    assert rows_of("tables/test_latex.py::test_a_table_is_set") == []
