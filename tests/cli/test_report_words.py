"""``report`` as it is typed: an experiment's own layout, every format, a file in place of standard output."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from fake_runs import gfid, score, write

from svgbench.cli.main import main
from svgbench.lab.configs import configs_of


@pytest.fixture
def runs(tmp_path):
    for name, family in (("dinov3-tiny", "dinov3"), ("sd-vae-tiny", "sd-vae")):
        write(tmp_path / "runs" / name, [score(name), gfid(name, 2.0, steps=5), gfid(name, 1.0)], family=family)
    return tmp_path / "runs"


def call(capsys, *words):
    with pytest.raises(SystemExit) as exit_:
        main(["report", *map(str, words)])
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


def test_an_experiment_is_shown_in_its_papers_tables_and_other_runs_in_those_of_any(runs, capsys):
    status, out, err = call(capsys, "tiny", "--out", runs)
    assert status == 0 and "### Ablation" in out and "### Few steps" in out and "### Headline ratios" in out
    assert "2 of the 24 runs of 'tiny'" in err
    status, out, _ = call(capsys, "--out", runs)
    assert status == 0 and "### Reconstruction" in out and "### Ablation" not in out
    status, out, _ = call(capsys, "--out", runs, "--layout", "scaling")
    assert status == 0 and out.startswith("### Scaling")


def test_every_format_is_written_to_standard_output_or_to_a_file(runs, tmp_path, capsys):
    for format, start in (("markdown", "### "), ("csv", "table,"), ("latex", "% needs"), ("html", "<!doctype html>"), ("json", "[")):
        status, out, _ = call(capsys, "tiny", "--out", runs, "--format", format)
        assert status == 0 and out.startswith(start)
        to = tmp_path / "made" / f"report.{format}"
        status, nothing, err = call(capsys, "tiny", "--out", runs, "--format", format, "--to", to)
        assert status == 0 and nothing == "" and to.read_text() == out and f"written: {to}" in err


def test_json_stays_a_list_of_records_of_scores(runs, capsys):
    _, out, _ = call(capsys, "tiny", "--out", runs, "--format", "json")
    assert {row["metric"] for row in json.loads(out)} == {"rfid", "gfid"} and len(json.loads(out)) == 6


def test_a_layout_that_is_off_or_a_place_that_cannot_be_written_is_one_sentence(runs, tmp_path, capsys):
    status, _, err = call(capsys, "--out", runs, "--layout", "ablaton")
    assert status == 2 and "Did you mean 'ablation'" in err
    (tmp_path / "file").write_text("")
    status, _, err = call(capsys, "--out", runs, "--to", tmp_path / "file" / "report.md")
    assert status == 5 and "a part of that path is a file" in err and len(err.strip().splitlines()) == 1


def test_a_report_is_the_same_every_time(runs, capsys):
    first, second = (call(capsys, "tiny", "--out", runs, "--format", "html")[1] for _ in range(2))
    assert first == second


def test_runs_of_other_settings_and_of_an_own_folder_are_found(tmp_path, capsys):
    shelf, out = tmp_path / "shelf", tmp_path / "runs"
    (shelf / "ablations").mkdir(parents=True)
    (shelf / "ablations" / "mine.yaml").write_text("axes:\n  diffusion.shift: [0.2, 0.3]\n")
    for name in ("dinov3-tiny.limit-8.diffusion-shift-0.2", "dinov3-tiny.limit-8.diffusion-shift-0.3"):
        write(out / name, [score(name)])
    words = ["mine", "--out", out, "--shelf", shelf]
    status, table, err = call(capsys, *words, "--limit", 8)
    assert status == 0 and "dinov3-tiny.limit-8.diffusion-shift-0.3" in table and err == ""
    assert call(capsys, *words, "--set", "data.limit=8")[0] == 0
    status, _, err = call(capsys, *words, "--preset", "small", "--set", "seed=1")
    assert status == 2 and f"run: svgbench ablate mine --preset small --set seed=1 --shelf {shelf} --out {out}." in err


def test_rows_of_an_experiment_are_called_by_the_values_of_its_axes_in_the_order_of_its_file(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(
        "axes:\n  way:\n    slow: {diffusion.shift: 0.2, sampling.steps: [2, 3]}\n    quick: {diffusion.shift: 0.3}\n"
        "    no-align: {autoencoder.align: none}\n"
        "  seed: [0, 1]\n"
    )
    runs = list(configs_of(str(tmp_path / "mine.yaml"), "tiny", None, None, resolved=False))
    names = runs[:2]
    for number, name in enumerate(runs):
        write(tmp_path / "runs" / name, [score(name.removesuffix(".seed-1"), seed=number % 2)])
    words = [tmp_path / "mine.yaml", "--out", tmp_path / "runs"]
    _, table, _ = call(capsys, *words)
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert rows[:4] == ["run", "slow", "quick", "no-align"] and names[0] not in rows
    costs = [line for line in table.splitlines() if line.startswith("| slow, seed=1 ")]
    assert len(costs) == 1 and costs[0].strip("| ").endswith(f"| {names[1]}")  # the directory
    out = call(capsys, *words, "--format", "csv")[1]
    assert "slow" not in out and f",{names[0]}," in out


@pytest.fixture
def on_images(tmp_path, monkeypatch):
    """Two runs of an experiment on a folder of images, made with ``--data pictures/``, and its file."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / name).touch()
    (tmp_path / "grid.yaml").write_text("base: smoke\naxes:\n  seed: [0, 1]\n")
    for name, config in configs_of("grid.yaml", "tiny", None, None, data="pictures/", resolved=False).items():
        write(tmp_path / "runs" / name, [gfid(name.removesuffix(".seed-1"), 2.0, seed=config.seed)], config=config.model_dump(mode="json"))
    return tmp_path


@pytest.mark.parametrize("spelt", ["pictures", "pictures/", "./pictures", "{here}/pictures", "link", "runs/../pictures"])
def test_runs_made_with_data_are_found_however_the_path_is_written(on_images, capsys, spelt):
    (on_images / "link").symlink_to("pictures")
    status, out, err = call(capsys, "grid.yaml", "--data", spelt.format(here=on_images))
    assert not err, err
    assert status == 0 and "### Generation" in out and "| 2.0" in out.replace("*", "")
    status, _, err = call(capsys, "grid.yaml", "--data", "elsewhere")
    assert status == 2 and "svgbench ablate grid.yaml --data elsewhere" in err
    status, _, err = call(capsys, "grid.yaml")
    assert status == 2 and "holds no run of the experiment" in err


def test_an_encoder_names_its_run_with_the_same_settings(on_images, capsys):
    for value, words in ((3.0, {}), (4.0, {"data": "pictures/"})):
        for name, config in configs_of("mae", "tiny", ["seed=1"], None, resolved=False, **words).items():
            scores = [gfid(name.removesuffix(".seed-1"), value, seed=1)]
            write(on_images / "runs" / name, scores, config=config.model_dump(mode="json"))
    status, out, err = call(capsys, "mae", "--set", "seed=1")
    assert status == 0 and "| 3.0" in out and "| 4.0" not in out, err
    status, out, err = call(capsys, "mae", "--set", "seed=1", "--data", "./pictures")
    assert status == 0 and "| 4.0" in out and "| 3.0" not in out, err
    status, _, err = call(capsys, "mae", "--set", "seed=2")
    assert status == 2 and "no run named 'mae'" in err


def test_a_hint_can_be_pasted_with_its_directory_and_quotes(tmp_path, capsys):
    write(tmp_path / "my runs" / "other", [score("other")])
    status, _, err = call(capsys, "smoke", "--out", tmp_path / "my runs", "--set", "sampling.steps=[2, 3]", "--quick")
    hint = f"svgbench ablate smoke --set 'sampling.steps=[2, 3]' --quick --out '{tmp_path}/my runs'"
    assert status == 2 and hint in err


def test_the_suffix_of_a_file_is_its_format_unless_one_is_given(runs, tmp_path, capsys):
    for suffix, start in ((".md", "### "), (".csv", "table,"), (".tex", "% needs"), (".html", "<!doctype html>"), (".json", "[")):
        assert call(capsys, "--out", runs, "--to", tmp_path / f"x{suffix}")[0] == 0
        assert (tmp_path / f"x{suffix}").read_text().startswith(start)
    assert call(capsys, "--out", runs, "--to", tmp_path / "y.html", "--format", "csv")[0] == 0
    assert (tmp_path / "y.html").read_text().startswith("table,")


@pytest.mark.parametrize("words", ["report --format html", "encoders list", "fields"])
def test_a_reader_that_ends_early_is_no_failure(runs, words):
    out = f"--out {runs}" if words.startswith("report") else ""
    for lines in ("1", "0"):
        command = f"{sys.executable} -m svgbench {words} {out} | head -n {lines}; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] in ("0", "141") and done.stderr == ""
