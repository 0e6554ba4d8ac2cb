"""``sample --to x.npz``: which of a run's stored samples are meant, and what cannot be asked of them."""

from __future__ import annotations

import numpy as np
import pytest
from fake_runs import gfid, write, write_samples

from svgbench.cli.main import main


def call(capsys, *words: str) -> tuple[int, str]:
    """Exit status and standard error of a command."""
    with pytest.raises(SystemExit) as exit_:
        main(["sample", "a", *words])
    return exit_.value.code, capsys.readouterr().err


@pytest.fixture
def out(tmp_path):
    """A run with samples along its training; those of its middle are listed last."""
    write(tmp_path / "runs" / "a", [gfid("a", 5.0)])
    for trained in (1.0, 0.125, 0.5):
        write_samples(tmp_path / "runs", "a", 5, 1.0, trained=trained)
    return tmp_path / "runs"


def drawn(trained: float) -> np.ndarray:
    return np.random.default_rng(round(1000 * trained)).integers(0, 255, (10, 3, 8, 8), np.uint8).transpose(0, 2, 3, 1)


@pytest.mark.parametrize(("words", "trained"), [([], 1.0), (["--trained", "0.5"], 0.5), (["--trained", "1"], 1.0)])
def test_the_end_of_the_training_is_meant_unless_a_share_is_named(out, tmp_path, capsys, words, trained):
    to = tmp_path / "s.npz"
    status, err = call(capsys, "--to", str(to), "--steps", "5", "--out", str(out), *words)
    assert status == 0, err
    assert (np.load(to)["arr_0"] == drawn(trained)).all()


def test_absent_samples_are_answered_by_those_that_are_there(out, tmp_path, capsys):
    status, err = call(capsys, "--to", str(tmp_path / "s.npz"), "--steps", "5", "--trained", "0.3", "--out", str(out))
    assert status == 2 and "has no samples of --steps 5 --guidance 1 --trained 0.3" in err
    assert "it has: --steps 5 --guidance 1, --steps 5 --guidance 1 --trained 0.125, --steps 5 --guidance 1 --trained 0.5." in err


@pytest.mark.parametrize(
    "option", [("--labels", "1"), ("--seed", "0"), ("--sampler", "heun"), ("--schedule", "late"), ("--shift", "0.3"), ("--zero-init", "1")]
)
def test_what_an_export_cannot_heed_is_refused(out, tmp_path, capsys, option):
    status, err = call(capsys, "--to", str(tmp_path / "s.npz"), "--steps", "5", "--out", str(out), *option)
    assert status == 2 and f"leave out {option[0]}" in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "s.npz").exists()


def test_a_picture_takes_no_share_of_the_training(out, tmp_path, capsys):
    status, err = call(capsys, "--to", str(tmp_path / "s.png"), "--trained", "0.5", "--out", str(out))
    assert status == 2 and "--trained chooses among stored samples" in err


def test_where_there_is_no_run_none_is_offered(tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    status, err = call(capsys, "--to", str(tmp_path / "s.png"), "--out", str(tmp_path / "runs"))
    assert status == 2 and "no run named 'a'. There is none." in err
