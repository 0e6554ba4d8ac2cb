"""The reviewers' questions: each names commands that exist, and the page says what has been run."""

from __future__ import annotations

import json
import shlex

import pytest
from commands import svgbench
from fake_runs import score, write

from svgbench.cli.commands import app
from svgbench.config.experiments import load_experiment
from svgbench.errors import BadConfig
from svgbench.lab.configs import cells_of
from svgbench.tables import reviewers
from svgbench.tables.reviewers import Question, questions


def test_every_question_names_experiments_and_commands_that_exist():
    from typer.main import get_command

    program = get_command(app)
    for question in questions():
        for name in question.experiments:
            assert load_experiment(name).asks
            assert any(shlex.split(words)[:2] == ["ablate", name] for words in question.commands), question.asks
        for words in map(shlex.split, question.commands):
            made = program.commands[words[0]].make_context(words[0], words[1:])  # refuses an option or a value
            if words[0] in ("report", "figures"):
                named = made.params["name" if words[0] == "report" else "names"]
                assert set([named] if isinstance(named, str) else named) <= set(question.experiments), question.asks
    assert sum(question.costs for question in questions()) == 1 and all(q.open or q.commands for q in questions())


def test_nothing_run_is_said_of_every_question(tmp_path):
    done = svgbench("report", "reviewers", "--out", tmp_path)
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| Q")]
    states = [row[4].strip() for row in rows]
    assert done.returncode == 0 and len(rows) == len(questions())
    assert all("not run" in state or state.startswith("cannot be answered: ") for state in states)
    assert states[4] == "cannot be answered: svgbench keeps every encoder frozen; no experiment trains one"


def test_what_has_been_run_is_counted_and_printed_once_in_its_layout(tmp_path):
    names = list(cells_of("alignment", "tiny", None, None, resolved=False))[:2]
    for name in names:
        write(tmp_path / name, [score(name, "rfid", 2.0), score(name, "psnr", 20.0)])
    done = svgbench("report", "reviewers", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    first = next(line for line in done.stdout.splitlines() if line.startswith("| Q1"))
    assert first.split("|")[4].strip() == "2 of 54 runs"
    assert done.stdout.count("### Q1: Ablation: reconstruction, generation and perception of one tokenizer\n") == 1
    assert "the tables of 'alignment' are printed under Q1" in done.stdout and "46.51" in done.stdout
    content = json.loads(svgbench("report", "reviewers", "--out", tmp_path, "--format", "json").stdout)
    assert content[0]["run"] == "2 of 54 runs" and content[0]["command"].startswith("svgbench ablate alignment")
    page = tmp_path / "page.html"
    assert svgbench("report", "reviewers", "--out", tmp_path, "--to", page).returncode == 0 and "The reviewers" in page.read_text()


def test_options_of_one_table_are_refused(tmp_path):
    done = svgbench("report", "reviewers", "--out", tmp_path, "--against", "a")
    assert done.returncode == 2 and "leave out --layout and --against" in done.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- {asks: why?}", "or state in `open` why it cannot be answered"),
        ("- {asks: why?, experiments: [a], open: never}", "or state in `open` why it cannot be answered"),
        ("- {asks: why?, experiments: [a]}", "must list its commands"),
    ],
)
def test_a_question_without_an_answer_is_refused(tmp_path, monkeypatch, content, said):
    path = tmp_path / "reviewers.yaml"
    path.write_text(f"questions:\n  {content}\n")
    monkeypatch.setattr(reviewers, "entries", lambda shelf: {"reviewers": path})
    with pytest.raises(BadConfig, match=said):
        questions()
    assert Question(asks="a", open="b").open == "b"
