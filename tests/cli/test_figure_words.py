"""``figures`` answers what it cannot draw in one sentence with status 2, and writes nothing then."""

from __future__ import annotations

import importlib.util
import json

import pytest
import yaml

from svgbench.cli.figures import _labels as labels_of
from svgbench.cli.main import main
from svgbench.cli.selection import Named
from svgbench.config.build import build
from svgbench.lab.configs import configs_of
from svgbench.lab.diagnosis import recorded


@pytest.fixture
def out(tmp_path):
    """A run whose record names artifacts that the store lacks."""
    place = tmp_path / "runs" / "dinov3-tiny"
    place.mkdir(parents=True)
    stages = [{"stage": name, "key": "ab" * 32, "cell": {}, "cost": {}} for name in ("images", "autoencoder", "statistics")]
    about = {"run": "dinov3-tiny", "encoder": "dinov3-tiny", "family": "dinov3", "kind": "features", "stages": stages, "failures": {}}
    (place / "run.json").write_text(json.dumps(about))
    (place / "scores.json").write_text("[]")
    (place / "config.yaml").write_text(yaml.safe_dump(build({}, preset="tiny").model_dump(mode="json")))
    return tmp_path / "runs"


def call(capsys, *words: str) -> tuple[int, str]:
    """Exit status and standard error."""
    with pytest.raises(SystemExit) as exit_:
        main(["figures", *words])
    return exit_.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["dinov3-tinny"], "no run named 'dinov3-tinny'. Did you mean 'dinov3-tiny'"),
        (["recipes"], "holds no run of the experiment 'recipes'; run: svgbench ablate recipes"),
        (["dinov3-tiny"], "run 'dinov3-tiny' has no finished images; run the command that made the run"),
        ([], "run 'dinov3-tiny' has no finished images"),
    ],
)
def test_an_unknown_or_unfinished_run_is_one_sentence(out, capsys, words, sentence):
    status, err = call(capsys, *words, "--out", str(out))
    assert status == 2 and sentence in err and len(err.strip().splitlines()) == 1
    assert not (out / "figures").exists()


def test_an_unknown_figure_is_one_sentence_and_the_toy_needs_no_run(tmp_path, capsys):
    status, err = call(capsys, "--only", "toy-fild", "--out", str(tmp_path / "runs"))
    assert status == 2 and "no figure named 'toy-fild'. Did you mean 'toy-field'" in err and len(err.strip().splitlines()) == 1
    status, _ = call(capsys, "--only", "toy-field", "--out", str(tmp_path / "runs"))
    assert status == 0 and {path.name for path in (tmp_path / "runs" / "figures").iterdir()} == {
        f"toy-field.{kind}" for kind in ("png", "svg", "csv", "json")
    }


def test_an_imported_run_is_sent_to_its_experiment(out, capsys):
    (out / "dinov3-tiny" / "experiment.yaml").write_text("base: preset-tiny\n")
    status, err = call(capsys, "dinov3-tiny", "--out", str(out))
    assert status == 2 and f"svgbench ablate {out / 'dinov3-tiny' / 'experiment.yaml'}" in err


def test_a_missing_package_is_named_with_the_extra_that_brings_it(out, capsys, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else real(name))
    status, err = call(capsys, "--out", str(out))
    assert status == 2 and "scikit-learn; install them: pip install 'svgbench[figures]'" in err


def test_an_empty_place_says_what_to_run(tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    status, err = call(capsys, "--out", str(tmp_path / "runs"))
    assert status == 2 and "holds no run; run something first" in err


def test_a_record_s_stages_are_known_by_the_name_that_others_need_them_by():
    found = recorded([{"stage": "adoption", "key": "a", "cell": {}}, {"stage": "gone", "key": "b", "cell": {}}])
    assert set(found) == {"autoencoder"} and found["autoencoder"].stage == "adoption"


def test_an_experiment_s_runs_are_found_where_its_images_are_not(out, capsys, tmp_path):
    (tmp_path / "grid.yaml").write_text(f"set:\n  data.source: {tmp_path / 'nowhere'}\n")
    status, err = call(capsys, str(tmp_path / "grid.yaml"), "--out", str(out), "--limit", "8")
    assert status == 2 and f"holds no run of the experiment '{tmp_path / 'grid.yaml'}'" in err and "--limit 8" in err


def test_the_runs_of_an_experiment_are_called_by_the_values_of_its_axes(tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text("axes:\n  way:\n    slow: {autoencoder.align: none}\n    quick: {sampling.steps: [2, 3]}\n  seed: [0, 1]\n")
    runs = list(configs_of(str(grid), "tiny", None, None, resolved=False))
    assert list(labels_of([str(grid)], Named(tmp_path)).items()) == list(zip(runs, ["slow", "slow", "quick", "quick"], strict=True))
    assert labels_of([], Named(tmp_path)) == labels_of(["dinov3-tiny"], Named(tmp_path)) == {}
