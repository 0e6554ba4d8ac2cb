"""``svgbench data pack`` and ``verify``: what they print, what they refuse, and their exit statuses."""

from __future__ import annotations

import json

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


@pytest.fixture
def folder(tmp_path):
    for label, name in enumerate(("ant", "bee")):
        (tmp_path / "in" / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(np.full((24, 20, 3), 100 * label + i, np.uint8)).save(tmp_path / "in" / name / f"{i}.png")
    return tmp_path / "in"


def test_a_folder_is_packed_verified_and_packed_again_at_once(folder, tmp_path, capsys):
    words = ["data", "pack", str(folder), "--to", str(tmp_path / "out"), "--resolution", "16", "--workers", "2", "--train-images", "12"]
    status, out, _ = call(capsys, *words)
    assert status == 0 and "train.images.npy" in out and "--set data.resolution=16" in out
    about = json.loads((tmp_path / "out" / "images.json").read_text())
    assert about["counts"] == {"train": 12, "val": 2} and set(about["files"]) == {
        f"{split}.{kind}.npy" for split in ("train", "val") for kind in ("images", "labels")
    }
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*about["files"], "images.json"])
    before = (tmp_path / "out" / "train.images.npy").stat().st_mtime_ns
    assert call(capsys, *words)[:2] == (0, out) and (tmp_path / "out" / "train.images.npy").stat().st_mtime_ns == before
    status, out, _ = call(capsys, "data", "verify", str(tmp_path / "out"))
    assert status == 0 and "every digest, shape and label is as packed" in out and "images/s per core in random batches of 256" in out
    status, _, err = call(capsys, *words, "--val-images", "1")
    assert status == 2 and "holds a store of other images or settings" in err


def test_a_damaged_store_is_status_2_and_names_the_file(folder, tmp_path, capsys):
    call(capsys, "data", "pack", str(folder), "--to", str(tmp_path / "out"), "--resolution", "16")
    path = tmp_path / "out" / "val.images.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    status, out, err = call(capsys, "data", "verify", str(tmp_path / "out"))
    assert status == 2 and "val.images.npy: its bytes are not those that were packed" in err and not out
    assert err.startswith("BrokenArtifact") and len(err.strip().splitlines()) == 1


def test_a_damaged_store_is_not_reported_as_packed_by_the_command_that_made_it(folder, tmp_path, capsys):
    words = ["data", "pack", str(folder), "--to", str(tmp_path / "out"), "--resolution", "16"]
    call(capsys, *words)
    labels = tmp_path / "out" / "train.labels.npy"
    labels.write_bytes(labels.read_bytes()[:-8] + b"\1\0\0\0\0\0\0\0")
    before = labels.read_bytes()
    labels.write_bytes(before[:-8] + b"\0\0\0\0\0\0\0\0")
    status, out, err = call(capsys, *words)
    assert status == 2 and "train.labels.npy: its bytes are not those that were packed" in err and not out


def test_a_source_is_verified_by_reading_it(folder, tmp_path, capsys):
    status, out, _ = call(capsys, "data", "verify", str(folder))
    assert status == 0 and "read" in out and "20" in out
    (folder / "ant" / "3.png").write_bytes((folder / "ant" / "4.png").read_bytes())
    (folder / "ant" / "5.png").unlink()
    status, out, err = call(capsys, "data", "verify", str(folder))
    assert status == 0 and "ant/3.png" in out and "ant/5.png" in out and "changed since they were last read" in err
    (folder / "ant" / "6.png").unlink()
    (folder / "ant" / "6.png").symlink_to(tmp_path / "nowhere")
    status, out, err = call(capsys, "data", "verify", str(folder))
    assert status == 2 and "1 of 19 files cannot be read (ant/6.png)" in err and not out


def test_a_dense_set_is_verified_by_reading_it(tmp_path, capsys):
    for part, value in (("images", 90), ("annotations", 1)):
        for split in ("training", "validation"):
            (tmp_path / part / split).mkdir(parents=True)
            Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / part / split / "a.png")
    status, out, _ = call(capsys, "data", "verify", str(tmp_path))
    assert status == 0 and "4" in out
    Image.fromarray(np.full((8, 8), 2, np.uint8)).save(tmp_path / "annotations" / "validation" / "a.png")
    status, out, _ = call(capsys, "data", "verify", str(tmp_path))
    assert status == 0 and "annotations/validation/a.png" in out


def test_wrong_words_are_one_sentence_and_status_2(folder, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    call(capsys, "data", "pack", str(folder), "--to", str(tmp_path / "packed"), "--resolution", "16")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "packing.jsonl").write_text("{}\n")
    for words, sentence in (
        (["pack", "shapes", "--to", str(tmp_path / "a")], "'shapes' are drawn when a run needs them"),
        (["pack", str(tmp_path / "no"), "--to", str(tmp_path / "a")], "does not exist; give a folder of class folders, of shards"),
        (["pack", str(folder), "--to", str(tmp_path / "full")], "holds other files ('thesis.tex')"),
        (["pack", str(folder), "--to", str(folder / "packed")], "lies inside the images that are packed"),
        (["pack", str(tmp_path / "packed"), "--to", str(tmp_path / "a")], "is packed already"),
        (["pack", str(folder), "--to", str(tmp_path / "a"), "--resolution", "4"], "greater than or equal to 16"),
        (["pack", str(folder), "--to", str(tmp_path / "b"), "--train-images", "99"], "asks for 99"),
        (["verify", str(tmp_path / "no")], "does not exist; give a source of images, or a directory made by 'svgbench data pack'."),
        (["verify", str(tmp_path / "begun")], "is not finished; run svgbench data pack again"),
        (["verify", str(tmp_path / "full")], "contains no class folders, shards (*.tar) or Hugging Face dataset"),
    ):
        status, out, err = call(capsys, "data", *words)
        assert status == 2 and sentence in err and not out, (words, err)
        assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "a").exists() and (tmp_path / "full" / "thesis.tex").read_text() == "x"


def test_a_packing_owned_by_another_process_is_status_7(folder, tmp_path, capsys):
    from svgbench.lab.store import locked

    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out" / "packing.lock", what="x"):
        status, _, err = call(capsys, "data", "pack", str(folder), "--to", str(tmp_path / "out"), "--resolution", "16")
    assert status == 7 and "is being worked on by process" in err
