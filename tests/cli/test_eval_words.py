"""``eval``: what is refused before anything runs, and bars that follow one another."""

from __future__ import annotations

import contextlib

import pytest

from svgbench.cli.main import main
from svgbench.machine.runtime import Runtime


def call(capsys, *words: str) -> tuple[int, str]:
    """Exit status and standard error of a command."""
    with pytest.raises(SystemExit) as exit_:
        main(["eval", "a", "--reference", "b", "--extractor", "shapes-cnn", *words])
    return exit_.value.code, capsys.readouterr().err


@pytest.mark.parametrize(("words", "sentence"), [
    (["--second-extractor", "shapes-cnn"], "--second-extractor shapes-cnn is the first one; name another or leave it out."),
    (["--second-extractor-weights", "x"], "--second-extractor-weights needs --second-extractor;"),
])  # fmt: skip
def test_a_second_extractor_is_another_one(capsys, words, sentence):
    status, err = call(capsys, *words)
    assert status == 2 and sentence in err and len(err.strip().splitlines()) == 1


def test_a_bar_ends_before_the_next_begins(monkeypatch, capsys):
    heard = []

    @contextlib.contextmanager
    def bar(self, label, total, **more):
        heard.append(f"{label} begins")
        yield type("Bar", (), {"advance": lambda self, count: None})()
        heard.append(f"{label} ends")

    def scores(*given, progress, **more):
        for label in ("reference", "images"):
            progress(label, 2)(2)
        return []

    monkeypatch.setattr(Runtime, "progress", bar)
    monkeypatch.setattr("svgbench.metrics.elsewhere.elsewhere_scores", scores)
    assert call(capsys, "--format", "json")[0] == 0
    assert heard == ["reference begins", "reference ends", "images begins", "images ends"]
