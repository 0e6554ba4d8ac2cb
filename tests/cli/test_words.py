"""What the user types wrong is answered in one sentence with the contract's exit status, and nothing is left as if finished."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from svgbench.cli.main import main


def call(capsys, *words: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error of one command."""
    with pytest.raises(SystemExit) as exit_:
        main(list(words))
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


def picture(path, colour=0, size=(40, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), colour, np.uint8)).save(path)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--encoder", "dinov4"], r"no encoder card named 'dinov4'. Did you mean 'dinov"),
        (["--encoder", "timm:no_such_model_patch16"], "no_such_model_patch16"),
        (["--preset", "tinny"], "Did you mean 'tiny'"),
        (["--align", "frosen"], "Did you mean 'frozen'"),
        (["--align", "frozen", "--no-align"], "contradict each other"),
        (["--compile", "--no-compile"], "--compile and --no-compile contradict each other"),
        (["--set", "autoencoder.residual.chanels=8"], "Did you mean 'channels'"),
        (["--set", "data.resolution=4"], "must be greater than or equal to 16"),
        (["--set", "data.resolution=36"], "cannot be divided into the 8 px patches of 'dinov3-tiny'; use 32 or 40"),
        (["--set", "scores.extractor=incepton"], "Did you mean 'inception'"),
        (["--set", "scores.extractor=inception"], r"needs its weights file weights-inception.*licence Apache"),
        (["--set", "sampling.schedule=linearly"], "Did you mean 'linear'"),
        (["--set", "sampling.sampler=eulr"], "Did you mean 'euler'"),
        (["--data", "/no/such/folder"], "/no/such/folder"),
        (["--weights", "/no/such/file.pth"], "/no/such/file.pth"),
        (["--no-such-option"], "No such option"),
        (["--seed", "-1"], "seed"),
    ],
)
def test_a_wrong_word_is_one_sentence_and_status_2(tmp_path, capsys, words, sentence):
    status, out, err = call(capsys, "run", "--out", str(tmp_path / "runs"), *words)
    assert status == 2, err
    import re

    assert re.search(sentence, err), err
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err and not out
    assert not list((tmp_path / "runs").rglob("manifest.json")) if (tmp_path / "runs").exists() else True


def test_an_image_folder_that_is_empty_or_of_one_class_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    status, _, err = call(capsys, "run", "--out", str(tmp_path / "runs"), "--data", str(tmp_path / "empty"))
    assert status == 2 and "empty" in err
    for i in range(4):
        picture(tmp_path / "one" / "cats" / f"{i}.png", i)
    status, _, err = call(capsys, "run", "--out", str(tmp_path / "runs"), "--data", str(tmp_path / "one"))
    assert status == 2 and "one class" in err


def test_weights_absent_without_a_network_say_which_file_from_where_and_how_to_hand_it_over(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    words = ["run", "--out", str(tmp_path / "runs"), "--encoder", "dinov3-s16plus", "--preset", "small", "--device", "cpu"]
    small = ["--set", "data.train_images=20", "--set", "data.val_images=10", "--set", "data.resolution=32"]
    status, _, err = call(capsys, *words, *small)
    last = err.strip().splitlines()[-1]
    assert status == 2 and "--weights" in last and "dinov3" in last and "licen" in last.lower(), err


def test_an_unknown_experiment_or_run_offers_its_neighbour(tmp_path, capsys):
    status, _, err = call(capsys, "plan", "smoek", "--out", str(tmp_path))
    assert status == 2 and "Did you mean 'smoke'" in err
    status, _, err = call(capsys, "report", "dinov3", "--out", str(tmp_path))
    assert status == 2 and "no run named" in err
    status, _, err = call(capsys, "report", "--out", str(tmp_path / "absent"))
    assert status == 2 and "does not exist" in err


def test_a_grid_file_with_an_unknown_field_names_the_file_and_the_closest_name(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("asks: x\naxes:\n  autoencoder.residual.chanels: [0, 8]\n")
    status, _, err = call(capsys, "plan", str(path), "--out", str(tmp_path))
    assert status == 2 and "mine.yaml" in err and "Did you mean 'channels'" in err


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"], ["encoders"], ["plan", "dinov3"], ["plan", "tiny"],
                                   ["doctor"], ["doctor", "--preset", "paper"]])  # fmt: skip
def test_quick_commands_answer_without_torch(words):
    code = f"import sys; from svgbench.cli.main import main\ntry: main({words!r})\nfinally: assert 'torch' not in sys.modules"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert time.perf_counter() - start < 15  # the benchmark of one second is the README's; this only catches an import gone wrong


def test_a_run_owned_by_another_process_is_status_7(tmp_path, capsys):
    code = (
        "import sys, time; from pathlib import Path; from svgbench.lab.store import locked\n"
        "p = Path(sys.argv[1]); p.mkdir(parents=True)\n"
        "with locked(p / 'lock', what='x'):\n print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "dinov3-tiny.no-align")], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline().strip() == "held"
        status, _, err = call(capsys, "run", "--out", str(tmp_path), "--encoder", "dinov3", "--no-align")
        assert status == 7 and f"process {other.pid}" in err
    finally:
        other.kill()
        other.wait()


def test_a_disk_that_cannot_be_written_is_status_5(tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs")

    monkeypatch.setattr("pathlib.Path.mkdir", fail)
    status, _, err = call(capsys, "run", "--out", str(tmp_path / "runs"), "--encoder", "dinov3")
    assert status == 5 and "disk is full" in err


def test_encoders_show_prints_the_licence(capsys):
    status, out, _ = call(capsys, "encoders", "show", "dinov3-s16plus")
    assert status == 0 and "licence: dinov3-license" in out


def test_a_store_of_a_newer_version_is_refused(tmp_path, capsys):
    from svgbench.lab.configs import configs_of
    from svgbench.lab.plan import make_plan
    from svgbench.lab.store import Store

    plan = make_plan(configs_of("dinov3", "tiny", None, None))
    node = next(iter(plan.nodes.values()))
    place = Store(tmp_path / "store").place(node.stage, node.key)
    place.mkdir(parents=True)
    (place / "manifest.json").write_text(json.dumps({"format": 99}))
    status, _, err = call(capsys, "run", "--out", str(tmp_path), "--encoder", "dinov3")
    assert status == 2 and "newer svgbench" in err
