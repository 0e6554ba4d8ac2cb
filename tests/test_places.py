"""The table of places to touch: equal in both documents, its files exist, and adding one thing touches few of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from places import COLUMNS, PLACES, table

ROOT = Path(__file__).parents[1]
MOST = 4
"""Files that adding one thing may touch."""


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/extending.md"])
def test_the_table_of_places_is_in_the_document(page):
    assert table() in (ROOT / page).read_text(), f"{page} must contain:\n{table()}"


@pytest.mark.parametrize("row", PLACES, ids=lambda row: row.what)
def test_the_files_of_a_row_exist_and_are_few(row):
    assert len(row.files) <= MOST
    for file in row.files:
        exists = (ROOT / file).is_file() if "NAME" not in file else list(ROOT.glob(file.replace("NAME", "*")))
        assert exists, file


def test_the_table_is_narrow_and_whole():
    lines = table().splitlines()
    assert all(len(line) <= COLUMNS for line in lines) and all(row.what in table() for row in PLACES)
