"""``plan`` and ``doctor`` through the command line: they say what is shared, missing and planned, and touch nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from svgbench.cli.main import main
from svgbench.cli.selection import trial
from svgbench.config.build import build
from svgbench.config.parse import override
from svgbench.config.schema import RunConfig
from svgbench.lab.configs import configs_of


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
    text = said(capsys, "plan", str(grid), "--out", str(tmp_path / "runs"), "--nodes")
    assert row(text, "autoencoder")[3:5] == ["2", "to run"] and row(text, "diffusion")[3].startswith("dinov3-tiny.")
    assert "FLOP" in row(text, "diffusion")[5] and row(text, "samples")[7] == "148 kB"  # 48 of 3 * 32 * 32 bytes and a label
    assert "nodes serve several runs" in text and "planned: " in text and re.search(r"pace assumed: \d+ CPU cores at", text)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("preset", ["tiny", "small", "paper"])
def test_a_quick_trial_of_every_recipe_can_be_planned(preset):
    """RAE's rate is held for 40 epochs before it falls, which is longer than a trial."""
    made = configs_of("recipes", preset, trial(["seed=0"], None, True), None, resolved=False)
    assert len(made) == 8 and {one.diffusion.training.total_images for one in made.values()} == {256}


def test_cells_that_differ_in_nothing_that_is_used_are_said(tmp_path, capsys):
    grid = tmp_path / "grid.yaml"
    grid.write_text("base: smoke\nset: {sampling.guidance: [1.0]}\naxes:\n  sampling.schedule: [constant, linear]\n")
    with pytest.raises(SystemExit):
        main(["plan", str(grid), "--out", str(tmp_path / "runs")])
    out, err = capsys.readouterr()
    assert row(out, "nodes")[1] == "16" and err.count("their work is done once and their rows are equal") == 1
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
    (note,) = [line for line in text.splitlines() if "left out until a field is set" in line]
    sets = {"scores.segmentation.source": str(tmp_path), "scores.depth.source": "nowhere", "scores.reference": "none.npz",
            "scores.second_extractor": "dinov2-vit-l-14", "scores.fdr6": str(tmp_path)}  # fmt: skip
    assert all(f"({field})" in note for field in sets)
    words = [word for field, value in sets.items() for word in ("--set", f"{field}={value}")]
    text = said(capsys, "doctor", "--preset", "paper", "--out", str(tmp_path), *words)
    assert "left out until a field is set" not in text and row(text, "images: ADE20K (SceneParsing, ADEChallengeData2016)")[1] == "yes"
    for what in (
        "images: NYU Depth v2 (split of BTS)",
        "reference of the samples",
        "weights of dinov2-vit-l-14 (scores)",
        "weights of mae-l (scores.fdr6)",
    ):
        assert row(text, what)[1] == "missing" and row(text, what)[2] != "-"


def test_a_plan_of_several_runs_begins_with_a_summary_and_shows_nodes_when_asked(tmp_path, capsys):
    grid = tmp_path / "grid.yaml"
    grid.write_text("base: smoke\naxes:\n  diffusion.shift: [0.5, 1.0]\n")
    words = ("plan", str(grid), "--out", str(tmp_path / "runs"))
    short, whole = said(capsys, *words), said(capsys, *words, "--nodes")
    assert row(short, "runs")[1] == "2" and row(short, "to run")[1] == "30 (0 exist)" and row(short, "shared by several runs")[1][0] != "0"
    assert (
        "| autoencoder" not in short
        and "--nodes" in short
        and "| autoencoder" in whole
        and whole.index("| to run ") < whole.index("| autoen")
    )
    content = json.loads(said(capsys, *words, "--format", "json"))
    assert content["summary"]["nodes"] == len(content["nodes"]) == 30 and content["summary"]["seconds"] > 0
    assert content["summary"]["kept_bytes"] == sum(node["bytes"] for node in content["nodes"])
    assert "| images " in said(capsys, "plan", "smoke", "--out", str(tmp_path / "runs"))  # a single run shows its nodes


def test_a_plan_without_images_or_weights_assumes_published_counts(capsys, tmp_path):
    one = json.loads(said(capsys, "plan", "preset-paper", "--out", str(tmp_path), "--format", "json"))
    assert "image counts are those published for ImageNet-1k (ILSVRC 2012), which is not here" in one["assumed"]
    assert "imagenet does not exist" in one["notes"][0] and one["summary"]["device"] == "GPU"
    doctor = said(capsys, "doctor", "--preset", "paper", "--out", str(tmp_path))
    hours = next(line for line in doctor.splitlines() if "GPU-hours" in line)
    assert f"{one['summary']['device_hours']:,.3g} GPU-hours" in hours
    grid = json.loads(said(capsys, "plan", "alignment", "--preset", "paper", "--out", str(tmp_path), "--format", "json"))
    assert grid["summary"]["runs"] == 54 and sum(node["stage"] == "images" for node in grid["nodes"]) == 1
    encoders = json.loads(said(capsys, "plan", "encoders", "--preset", "paper", "--out", str(tmp_path), "--format", "json"))
    assert sum(node["stage"] in ("autoencoder", "adoption") for node in encoders["nodes"]) == 14  # 4 x 3 seeds, and 2 codecs


def test_a_plan_of_a_folder_that_is_not_there_is_refused(capsys, tmp_path):
    with pytest.raises(SystemExit) as exit_:
        main(["plan", "smoke", "--set", f"data.source={tmp_path / 'no'}", "--out", str(tmp_path)])
    err = capsys.readouterr().err
    assert exit_.value.code == 2 and "does not exist" in err and len(err.strip().splitlines()) == 1


def test_doctor_and_encoders_print_json(capsys, tmp_path):
    content = json.loads(said(capsys, "doctor", "--out", str(tmp_path), "--format", "json"))
    assert {row["package"] for row in content["packages"]["rows"]} >= {"torch", "timm"} and content["images"]["rows"]
    content = json.loads(said(capsys, "doctor", "--preset", "paper", "--out", str(tmp_path), "--format", "json"))
    assert {row["stage"] for row in content["costs"]["rows"]} >= {"autoencoder", "diffusion"} and content["needs"]["notes"]
    cards = json.loads(said(capsys, "encoders", "list", "--format", "json"))
    assert {card["name"] for card in cards} >= {"dinov3-tiny", "sd-vae-ema"} and all(card["licence"] for card in cards)


def test_fields_are_printed_with_type_bounds_default_and_meaning(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = said(capsys, "fields", "sampling")
    assert text.startswith("sampling.count\n    integer; >= 1; default 50000\n    ") and max(map(len, text.splitlines())) <= 80
    (field,) = json.loads(said(capsys, "fields", "sampling.shift", "--format", "json"))
    assert field["path"] == "sampling.shift" and field["bounds"] == "> 0" and field["meaning"]
    assert len(json.loads(said(capsys, "fields", "--format", "json"))) > 150
    with pytest.raises(SystemExit) as exit_:
        main(["fields", "samplin"])
    assert exit_.value.code == 2 and "Did you mean 'sampling'" in capsys.readouterr().err


def test_print_config_prints_what_would_run_and_runs_nothing(capsys, tmp_path):
    text = said(capsys, "run", "--print-config", "--encoder", "mae", "--set", "diffusion.shift=0.5", "--out", str(tmp_path / "runs"))
    content = yaml.safe_load(text)
    assert content["encoder"]["card"] == "mae-tiny" and content["diffusion"]["shift"] == 0.5 and not (tmp_path / "runs").exists()
    assert text.startswith("# run mae-tiny.shift-0.5\n") or text.startswith("# run mae-tiny.diffusion-shift-0.5\n")
    assert RunConfig.model_validate(content).model_dump(mode="json") == content


def test_quick_shortens_images_and_trainings_and_is_named_as_a_trial(capsys, tmp_path):
    def config(*words):
        text = said(capsys, "run", "--print-config", "--out", str(tmp_path / "runs"), *words)
        return text.splitlines()[0].removeprefix("# run "), yaml.safe_load(text)

    (name, plain), (quick_name, quick) = config(), config("--quick")
    assert name == "dinov3-tiny" and quick_name.startswith("dinov3-tiny.limit-64.") and quick["data"]["limit"] == 64
    for part, updates in (("autoencoder", 3), ("diffusion", 4)):
        assert quick[part]["training"]["total_images"] == updates * plain[part]["training"]["batch"]
    assert quick["sampling"] == plain["sampling"] | {"count": 64, "steps": [2, 5]}
    scores = quick["scores"]
    assert (scores["resamples"], scores["probe"]["epochs"], scores["segmentation"]["epochs"]) == (10, 5, 2)
    words = override(trial(None, None, quick=True))
    heads, paper = build(words, preset="small").scores, build(words, preset="paper").scores.paper  # where data sets of their own are given
    assert (paper.linear.epochs, paper.fpn.total_images, paper.deconv.epochs) == (2, 64, 2)
    assert heads.segmentation.head.total_images == heads.depth.head.total_images == 64
    _, wider = config("--quick", "--limit", "200", "--set", "diffusion.training.total_images=1280")
    assert wider["data"]["limit"] == 200 and wider["diffusion"]["training"]["total_images"] == 1280
    keys = [{node["key"] for node in json.loads(said(capsys, "plan", "dinov3", "--format", "json", "--out", str(tmp_path), *more))["nodes"]
             if node["stage"].endswith("-scores")} for more in ([], ["--quick"])]  # fmt: skip
    assert not keys[0] & keys[1]


def test_quick_shortens_a_training_that_goes_on_too():
    def images(experiment, sets=None):
        runs = configs_of(experiment, "tiny", trial(sets, None, quick=True), None, resolved=False).values()
        return [[(step.autoencoder.images, step.diffusion.images) for step in run.continued or ()] for run in runs]

    assert images("continue-64") == [[], [(96, 256)], []]
    assert images("continue-512", ["continued.*.diffusion.images=7"]) == [[], [(96, 7)], [(96, 7), (96, 7)]]


def test_the_script_that_a_shell_reads_is_printed():
    shown = subprocess.run([sys.executable, "-m", "svgbench", "--show-completion", "bash"], capture_output=True, text=True)
    assert shown.returncode == 0 and "_SVGBENCH_COMPLETE=complete_bash" in shown.stdout


@pytest.mark.parametrize(("typed", "offered"), [("svgbench ablate smo", "smoke"), ("svgbench run --encoder dinov3-t", "dinov3-tiny")])
def test_a_shell_completes_experiments_and_encoders(typed, offered):
    env = {"_SVGBENCH_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    done = subprocess.run([sys.executable, "-m", "svgbench"], capture_output=True, text=True, env={**os.environ, **env})
    assert offered in done.stdout.split() and not done.stderr, done.stderr


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
