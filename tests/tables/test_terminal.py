"""Tables on a terminal: every word whole at 80 columns, every column there, the names of the rows in each group of columns."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from svgbench.tables.table import Cell, Table
from svgbench.tables.terminal import column_groups, draw, wrapped

NUMBER = "106.19 (93.94, 118.43)"


def _text(table: Table, width: int) -> str:
    stream = io.StringIO()
    draw(table, Console(file=stream, width=width, force_terminal=False))
    return stream.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_broken(width):
    table = Table(
        "Generation", ["run", "stage", *(f"gFID, {n} steps [1]" for n in range(6)), "seconds"],
        [["dinov3-tiny.bf2a89", "reconstruction-scores", *[NUMBER] * 6, "1"]], ["[1] fd-shapes-cnn@64bfa8ea/as-is; count 48"],
    )  # fmt: skip
    text = _text(table, width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count(NUMBER) == 6 and text.count("seconds") == 1 and text.count("reconstruction-scores") == 1
    assert text.count("dinov3-tiny.bf2a89") == len(column_groups(table, width)) > 1


def test_a_table_that_fits_is_one_group_and_one_that_does_not_repeats_its_keys():
    table = Table("t", ["stage", "cell", "work", "time"], [["samples", "steps=2", "4.35 GFLOP", "0.1 s"]], keys=2)
    assert [[column.place for column in group] for group in column_groups(table, 80)] == [[0, 1, 2, 3]]
    assert [[column.place for column in group] for group in column_groups(table, 36)] == [[0, 1, 2], [0, 1, 3]]


def test_the_places_are_styled_and_a_bracket_is_no_markup():
    stream = io.StringIO()
    table = Table("[red]t", ["run", "x [1]"], [["[bold]a", Cell("1.0", place=1)]], ["[1] note"])
    draw(table, Console(file=stream, width=80, force_terminal=True))
    assert "[red]t" in stream.getvalue() and "[bold]a" in stream.getvalue() and "\x1b[1m1.0\x1b[0m" in stream.getvalue()


def test_lines_break_between_words_then_behind_signs_and_within_letters_last():
    assert wrapped("one two three", 8) == ["one two", "three"]
    assert wrapped("dinov3-tiny.bf2a89", 12) == ["dinov3-tiny.", "bf2a89"]
    assert wrapped("[1] fd-cnn@64bf/as-is", 12) == ["[1] fd-cnn@", "64bf/as-is"]
    assert wrapped("abcdefgh", 3) == ["abc", "def", "gh"]
