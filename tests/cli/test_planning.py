"""``plan`` and ``doctor`` through the command line: they say what is shared, missing and planned, and touch nothing."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from svgbench.cli.main import main


def said(capsys, *words: str) -> str:
    """Standard output of a command that ends well."""
    with pytest.raises(SystemExit) as exit_:
        main(list(words))
    assert exit_.value.code == 0
    return capsys.readouterr().out


def row(text: str, *beginning: str) -> list[str]:
    """The cells of the first table row that begins so."""
    rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|"))
    return next(cells for cells in rows if cells[: len(beginning)] == list(beginning))


def test_a_plan_prints_work_time_disk_and_who_shares_a_node(tmp_path, capsys):
    grid = tmp_path / "grid.yaml"
    grid.write_text("base: smoke\naxes:\n  diffusion.shift: [0.5, 1.0]\n")
    text = said(capsys, "plan", str(grid), "--out", str(tmp_path / "runs"))
    assert row(text, "autoencoder")[3:5] == ["2", "to run"] and row(text, "diffusion")[3].startswith("dinov3-tiny.")
    assert "FLOP" in row(text, "diffusion")[5] and row(text, "samples")[7] == "148 kB"  # 48 of 3 * 32 * 32 bytes and a label
    assert "nodes serve several runs" in text and "planned: " in text and re.search(r"pace assumed: \d+ CPU cores at", text)
    assert not (tmp_path / "runs").exists()


def test_cells_that_differ_in_nothing_that_is_used_are_said(tmp_path, capsys):
    grid = tmp_path / "grid.yaml"
    grid.write_text("base: smoke\nset: {sampling.guidance: [1.0]}\naxes:\n  sampling.schedule: [constant, linear]\n")
    with pytest.raises(SystemExit):
        main(["plan", str(grid), "--out", str(tmp_path / "runs")])
    out, err = capsys.readouterr()
    assert "2 runs, 16 nodes" in out and err.count("their work is done once and their rows are equal") == 1
    grid.write_text("base: smoke\nset: {sampling.guidance: [2.0]}\naxes:\n  sampling.schedule: [constant, linear]\n")
    with pytest.raises(SystemExit):
        main(["plan", str(grid), "--out", str(tmp_path / "runs")])
    assert capsys.readouterr().err == ""


def test_more_gpus_shorten_the_trainings_and_leave_gpu_hours(capsys, tmp_path):
    one, eight = (said(capsys, "doctor", "--preset", "paper", "--gpus", n, "--out", str(tmp_path)) for n in ("1", "8"))
    hours = [float(row(text, "diffusion")[3].removesuffix(" h").replace(",", "")) for text in (one, eight)]
    assert hours[0] / hours[1] == pytest.approx(8, rel=0.01)
    shares = [next(line for line in text.splitlines() if "GPU-hours" in line).split(",")[-3] for text in (one, eight)]
    assert "GPU-hours" in shares[0] and shares[0] == shares[1]


def test_doctor_says_of_a_preset_what_is_missing_whence_and_what_it_would_cost(capsys, tmp_path):
    text = said(capsys, "doctor", "--preset", "paper", "--encoder", "mae", "--out", str(tmp_path))
    assert row(text, "weights of mae-b16")[2] == "CC-BY-NC-4.0"
    for word in ("image-net.org", "weights-inception-2015-12-05-6726825d.pth", "vgg16-397923af.pth", "are free at", "8 x H200"):
        assert word in text
    assert row(text, "images: ImageNet-1k (ILSVRC 2012)")[1] == "missing"
    assert float(row(text, "images", "")[4].removesuffix(" GB")) == pytest.approx(262, abs=1)


def test_doctor_alone_lists_packages_weights_and_data_sets(capsys, tmp_path):
    text = said(capsys, "doctor", "--out", str(tmp_path / "runs"))
    assert row(text, "torch")[1] == "yes" and row(text, "weights of dinov3-tiny")[1] == "yes"
    assert row(text, "weights of inception (scores)")[1] == "missing" and "ImageNet-1k" in text
    assert row(text, "ADE20K (SceneParsing, ADEChallengeData2016)")[1] == "20,210 + 2,000"
    nyu = row(text, "NYU Depth v2 (split of BTS)")
    assert nyu[1] == "24,231 + 654" and "not stated" in nyu[2] and "--set scores.depth.source=DIR" in nyu[3]
    assert not (tmp_path / "runs").exists()


def test_doctor_says_which_scores_want_a_setting_and_looks_for_what_was_set(capsys, tmp_path):
    text = said(capsys, "doctor", "--preset", "paper", "--out", str(tmp_path))
    (note,) = [line for line in text.splitlines() if "want of a setting" in line]
    sets = {"scores.segmentation.source": str(tmp_path), "scores.depth.source": "nowhere", "scores.reference": "none.npz",
            "scores.second_extractor": "dinov2-vit-l-14"}  # fmt: skip
    assert all(f"({field})" in note for field in sets)
    words = [word for field, value in sets.items() for word in ("--set", f"{field}={value}")]
    text = said(capsys, "doctor", "--preset", "paper", "--out", str(tmp_path), *words)
    assert "want of a setting" not in text and row(text, "images: ADE20K (SceneParsing, ADEChallengeData2016)")[1] == "yes"
    for what in ("images: NYU Depth v2 (split of BTS)", "reference of the samples", "weights of dinov2-vit-l-14 (scores)"):
        assert row(text, what)[1] == "missing" and row(text, what)[2] != "-"


def test_a_plan_without_its_images_points_to_doctor(capsys, tmp_path):
    elsewhere = ["smoke", "--set", f"data.source={tmp_path / 'no'}"]
    for words, hint in ((["dinov3", "--preset", "paper"], True), (["preset-paper"], True), (elsewhere, False)):
        with pytest.raises(SystemExit) as exit_:
            main(["plan", *words, "--out", str(tmp_path)])
        err = capsys.readouterr().err
        assert exit_.value.code == 2 and "does not exist" in err and len(err.strip().splitlines()) == 1
        assert ("; 'svgbench doctor --preset paper' shows work, hours and disk without it." in err) is hint


def test_a_data_set_of_a_score_that_is_not_there_is_placed_at_set(capsys, tmp_path):
    for part in ("segmentation", "depth"):
        with pytest.raises(SystemExit) as exit_:
            main(["plan", "smoke", "--set", f"scores.{part}.source={tmp_path / 'no'}", "--out", str(tmp_path)])
        err = capsys.readouterr().err
        assert exit_.value.code == 2 and err.startswith("BadData: --set: ") and f"set scores.{part}.source to a folder" in err


def test_another_preset_than_the_experiment_s_own_is_refused(capsys, tmp_path):
    for words in (["plan", "smoke"], ["ablate", "tiny"], ["report", "smoke"], ["figures", "smoke"]):
        with pytest.raises(SystemExit) as exit_:
            main([*words, "--preset", "small", "--out", str(tmp_path / "runs")])
        assert exit_.value.code == 2 and "--preset small: " in (err := capsys.readouterr().err) and "is based on the preset tiny;" in err
    assert not (tmp_path / "runs").exists()
    said(capsys, "plan", "preset-small", "--preset", "small", "--out", str(tmp_path / "runs"))


def test_plan_and_ablate_take_the_images_that_data_names(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(8):
        (tmp_path / "2024" / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 40, 3), i, np.uint8)).save(tmp_path / "2024" / f"class{i % 2}" / f"{i}.png")
    own, given, replaced = (
        row(said(capsys, "plan", "svg", "--out", "runs", *words), "images")[2]
        for words in ([], ["--data", "2024"], ["--data", "2024", "--set", "data.source=shapes"])
    )
    assert own == replaced != given
    for verb in ("plan", "ablate"):
        with pytest.raises(SystemExit) as exit_:
            main([verb, "smoke", "--data", "./no-such-folder", "--out", "runs"])
        assert exit_.value.code == 2 and capsys.readouterr().err.startswith("BadData: no-such-folder does not exist")
