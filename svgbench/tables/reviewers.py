"""The reviewers' questions (``reports/reviewers.yaml``): each with its commands and the finished runs of its experiments."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pydantic import model_validator

from svgbench.config.parse import validate
from svgbench.config.part import Part
from svgbench.shelf import entries, read_yaml
from svgbench.tables.table import Table

NAME = "reviewers"
"""The name of the page for ``svgbench report``."""
NOT_RUN = "not run"


class Question(Part):
    """One question."""

    asks: str
    experiments: tuple[str, ...] = ()
    """Experiments whose tables answer it."""
    costs: bool = False
    """Whether the table of measured costs answers it."""
    commands: tuple[str, ...] = ()
    """The commands, without ``svgbench``."""
    open: str = ""
    """Why svgbench cannot answer it; empty if it can."""

    @model_validator(mode="after")
    def _answered(self) -> Question:
        if bool(self.open) == bool(self.experiments or self.costs):
            raise ValueError("a question must list experiments, set costs, or state in `open` why it cannot be answered")
        if not self.open and not self.commands:
            raise ValueError("a question that can be answered must list its commands")
        return self


class Questions(Part):
    """The content of the file."""

    questions: tuple[Question, ...]


class Done(NamedTuple):
    """The finished runs of an experiment, or the measured costs, and their tables."""

    state: str
    """``9 of 18 runs``, or ``not run``."""
    tables: list[Table]


def questions() -> tuple[Question, ...]:
    """The questions of the shelf."""
    path = entries("reports")[NAME]
    return validate(Questions, read_yaml(path), where=str(path)).questions


def reviewers_tables(of_experiment: Callable[[str], Done], of_costs: Callable[[], Done]) -> list[Table]:
    """A table of all questions, then the tables of finished runs, each titled with the number of its question. An experiment that
    answers several questions is printed once."""
    overview = Table("The reviewers' questions", ["question", "asked", "command", "run"], [])
    overview.notes = ["the public reviews of arXiv 2510.15301; numbers of the preset tiny show trends only"]
    shown: dict[str, int] = {}
    tables = []
    for number, question in enumerate(questions(), 1):
        found = {name: of_experiment(name) for name in question.experiments} | ({"costs": of_costs()} if question.costs else {})
        states = [f"{name}: {done.state}" if len(found) > 1 else done.state for name, done in found.items()]
        commands = "; ".join(f"svgbench {words}" for words in question.commands)
        overview.rows.append([f"Q{number}", question.asks, commands or "-", "; ".join(states) or f"cannot be answered: {question.open}"])
        for name, done in found.items():
            if name in shown and done.tables:
                overview.notes.append(f"Q{number}: the tables of '{name}' are printed under Q{shown[name]}")
            elif done.tables:
                shown[name] = number
                for table in done.tables:
                    table.title = f"Q{number}: {table.title}"
                tables += done.tables
    return [overview, *tables]
