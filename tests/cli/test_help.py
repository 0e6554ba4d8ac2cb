"""``--help`` of every command: every option is explained, and at 80 columns nothing is cut or broken."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import typer

from svgbench.cli.commands import app
from svgbench.cli.main import main

BORDERS = "│╭╰─╮╯ "


def commands(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    yield path, command
    for name, inside in getattr(command, "commands", {}).items():
        yield from commands(inside, (*path, name))


COMMANDS = {" ".join(path): command for path, command in commands(typer.main.get_command(app))}


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not command.hidden])
def test_every_option_is_explained_and_no_word_is_broken_at_80_columns(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    command = COMMANDS[name]
    for parameter in command.params:
        assert getattr(parameter, "help", None) or parameter.name == "help", parameter.name
    with pytest.raises(SystemExit) as exit_:
        main([*name.split(), "--help"])
    text = capsys.readouterr().out
    assert exit_.value.code == 0 and max(map(len, text.splitlines())) <= 80 and "…" not in text
    words = set(text.translate(str.maketrans(BORDERS, " " * len(BORDERS))).split())
    explained = " ".join([command.help or "", *(getattr(parameter, "help", None) or "" for parameter in command.params)])
    broken = [word for word in explained.replace("``", "").split() if word not in words and f"({word}" not in words]
    assert not broken, broken
    assert all(option in words for parameter in command.params for option in parameter.opts if option.startswith("--"))
