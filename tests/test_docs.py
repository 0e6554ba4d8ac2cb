"""The README and the pages of ``docs/``: their size, their links, and the commands that they show."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from svgbench.config.cards import load
from svgbench.lab.configs import configs_of
from svgbench.shelf import read_yaml
from svgbench.tables.layouts import load_layout

ROOT = Path(__file__).parents[1]
FLOORS: dict[str, float] = ast.literal_eval(
    next(
        node.value
        for node in ast.parse((ROOT / "tests" / "test_house.py").read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS"
    )
)
"""Room -> its floor, as the test of the house has it."""
WRITTEN = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
WRITTEN += [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "fields.md"]
"""Pages written by hand; docs/fields.md is generated."""
MEASURED = sorted((ROOT / "reports" / "measured").glob("*.md"))
COLUMNS, LINES = 100, 100
ONE_LINERS = "python3 -m venv .venv && "
"""How the README's two commands begin, which are one line each."""
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shown(text: str) -> list[str]:
    """The commands in a page's shell blocks, one a line, without continuation marks and comments."""
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    commands = [part for line in lines for part in line.split(" && ")]
    return [found[1].strip() for command in commands if (found := re.match(r"\s*(?:\S*/)?svgbench ([a-z].*)", command))]


def mentioned(text: str) -> list[str]:
    """The commands in a page's text, between backticks."""
    spans = re.findall(r"`svgbench ([a-z][^`]*)`", without_code(text))
    return [" ".join(span.split()) for span in spans]


@cache
def program() -> Any:
    from svgbench.cli.commands import app

    return get_command(app)


def leaf(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the first words name, and the rest."""
    command: Any = program()
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no command '{words[0]}'"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def parse(line: str) -> None:
    """Parses a whole command with its values; raises what the command line would."""
    command, words = leaf(shlex.split(line, comments=True))
    assert not hasattr(command, "commands") or command.invoke_without_command, f"svgbench {line}: names no command"
    if not hasattr(command, "commands"):
        command.make_context(command.name, words)


def names_exist(line: str) -> None:
    """Whether a command's verbs and options exist; values may be placeholders or missing."""
    command, words = leaf([word.rstrip(".,:") for word in shlex.split(line.replace("...", ""), comments=True)])
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help", "--debug"}
    wrong = [word for word in words if word.startswith("--") and word.split("=")[0] not in options]
    assert not wrong, f"svgbench {line}: no option {wrong[0]}"


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= LINES


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_a_page_has_lines_of_at_most_100_columns(page):
    lines = enumerate(page.read_text().splitlines(), 1)
    assert not [number for number, line in lines if len(line) > COLUMNS and not line.startswith(ONE_LINERS)]


@pytest.mark.parametrize("page", [*WRITTEN, *MEASURED], ids=named)
def test_relative_links_lead_to_files_and_headings(page):
    for link in LINK.findall(without_code(page.read_text())):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists() and target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


def test_what_is_known_quotes_numbers_of_the_reports_it_links():
    page = ROOT / "reports" / "measured" / "README.md"
    items = re.split(r"^\d+\. ", page.read_text(), flags=re.M)[1:]
    assert len(items) == 10
    for item in items:
        reports = [(page.parent / link).read_text() for link in LINK.findall(item) if not link.startswith("..")]
        assert reports, item
        numbers = re.findall(r"\d+\.\d+(?:e-\d+)?", LINK.sub("", item))
        quoted = [re.compile(rf"(?<![\d.]){re.escape(number)}(?!\d)") for number in numbers]
        assert not [number.pattern for number in quoted if not any(number.search(report) for report in reports)], item


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_the_commands_of_a_page_parse(page):
    text = page.read_text()
    for line in shown(text):
        parse(line)
    for line in mentioned(text):
        names_exist(line)


def test_every_page_is_linked_from_the_readme():
    linked = {(ROOT / link).resolve() for link in LINK.findall((ROOT / "README.md").read_text()) if "://" not in link}
    assert {page for page in WRITTEN if page.name != "README.md"} <= linked


def test_the_packages_of_the_architecture_are_all_there_from_the_lowest_floor_up():
    block = re.search(r"^## The packages$.*?^```\n(.*?)^```", (ROOT / "docs" / "architecture.md").read_text(), re.M | re.S)
    rooms = [line.split()[0] for line in block[1].splitlines()]
    assert {*rooms, "mmseg"} == set(FLOORS) and [FLOORS[room] for room in rooms] == sorted(FLOORS[room] for room in rooms)


def test_the_table_of_files_to_touch_is_the_same_in_both_documents():
    tables = [
        re.findall(r"^\| to add .*?(?=\n\n)", (ROOT / page).read_text(), re.M | re.S) for page in ("CONTRIBUTING.md", "docs/extending.md")
    ]
    assert len(tables[0]) == 1 and tables[0] == tables[1]


def example(page: str, word: str) -> str:
    """The YAML block of a page that holds a word."""
    return next(block for block in re.findall(r"^```yaml\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S) if word in block)


def test_the_card_and_the_layout_of_the_pages_are_valid(tmp_path):
    (tmp_path / "mine.yaml").write_text(example("docs/encoders.md", "backend:"))
    assert load(tmp_path / "mine.yaml").channels == 768
    (tmp_path / "table-mine.yaml").write_text(example("docs/extending.md", "columns:"))
    assert load_layout(str(tmp_path / "table-mine.yaml")).ratios.over == "steps"


def test_the_experiments_of_the_page_are_built(tmp_path):
    for word, cells in (("wide", 18), ("features-only", 2)):
        (tmp_path / "mine.yaml").write_text(example("docs/experiments.md", word))
        assert len(configs_of(str(tmp_path / "mine.yaml"), "tiny", [], None)) == cells


def test_the_page_of_experiments_lists_every_one_with_its_table_of_the_paper():
    page = (ROOT / "docs" / "experiments.md").read_text()
    rows = re.findall(r"^\| (`[^|]+) \| [^|]+ \| ([^|]+) \|$", page, re.M)
    listed = {name: paper for names, paper in rows for name in re.findall(r"`([^`]+)`", names)}
    shelf = {path.stem: read_yaml(path) for path in (ROOT / "ablations").glob("*.yaml") if not path.stem.startswith("preset-")}
    assert {name: one["paper"] for name, one in shelf.items() if one.get("axes") or name == "smoke"} == listed


def test_the_first_python_example_runs():
    page = (ROOT / "docs" / "python.md").read_text()
    space: dict[str, Any] = {}
    exec(re.search(r"^```python\n(.*?)^```", page, re.M | re.S)[1], space)
    assert space["latents"].shape == (4, 96, 4, 4)


def test_the_readme_shows_commands_and_a_picture():
    text = (ROOT / "README.md").read_text()
    assert len(shown(text)) >= 10 and len([line for line in text.splitlines() if line.startswith(ONE_LINERS)]) == 2
    picture = ROOT / "docs" / "images" / "first-run.png"
    assert f"({picture.relative_to(ROOT)})" in text and picture.stat().st_size < 300 << 10


@pytest.mark.parametrize("line", ["run --encodr x", "paint", "data pack a", "encoders show a b", "run --seed x"])
def test_a_wrong_command_is_noticed(line):
    with pytest.raises(Exception, match=r"(?i)no such|no command|missing|unexpected|valid"):
        parse(line)


@pytest.mark.parametrize("line", ["run --encodr x", "paint", "data pak a"])
def test_a_wrong_name_is_noticed(line):
    with pytest.raises(AssertionError):
        names_exist(line)


def test_commands_are_found_in_text_and_blocks():
    text = "Use `svgbench data\npack --to X`.\n```sh\na && .venv/bin/svgbench run \\\n  --seed 1  # why\n```\n"
    assert shown(text) == ["run    --seed 1  # why"] and mentioned(text) == ["data pack --to X"]
