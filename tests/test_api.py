"""The public functions of ``import svgbench``, and the notebook that shows them."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import svgbench
from svgbench.config.build import build
from svgbench.config.choices import LEAST_SHIFT
from svgbench.errors import BadConfig, BadData, BadInput, UnknownName
from svgbench.nets.sampler import sample as plain_sample
from svgbench.nets.sit import SiT
from svgbench.releases.open import TRANSFORMERS
from svgbench.releases.settings import SETTINGS, sampling_of

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first-look.ipynb"
FUNCTIONS = {
    "load_encoder", "load_official", "load_run", "sample", "plan", "run", "results", "published", "frechet_distance", "generation_scores",
}  # fmt: skip


@pytest.fixture(scope="module")
def notebook():
    """The names that the notebook's cells, run in order, leave; a cell's last expression under ``shown``."""
    names = {"shown": []}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            parsed = ast.parse("".join(cell["source"]))
            last = ast.Expression(parsed.body.pop().value)
            exec(compile(parsed, "first-look.ipynb", "exec"), names)
            names["shown"].append(eval(compile(last, "first-look.ipynb", "eval"), names))
    return names


def test_the_notebook_runs_and_shows_what_it_names(notebook):
    shown = notebook["shown"]
    assert shown[0] == (8, notebook["encoder"].channels, 4, 4)
    assert shown[1] == ((8, 3, 32, 32), True)
    assert set(shown[2]["state"]) == {"to run"} and len(shown[3]) == len(notebook["results"])
    assert shown[4][0] == (10, 3, 32, 32) and notebook["samples"].min() >= 0 and notebook["samples"].max() <= 1
    assert shown[5] == (4, 3, 32, 32) and set(shown[6]["metric"]) == {"gfid", "is", "kid", "precision", "recall"} and shown[7] > 0
    assert "gfid" in shown[8].columns and len(shown[9]) == 5


def test_the_notebook_is_stored_without_outputs_and_without_paths():
    text = NOTEBOOK.read_text()
    cells = json.loads(text)["cells"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")
    assert not any(path in text for path in ("/root", "/home", "/work", "/tmp", "/Users"))


def test_importing_svgbench_is_light_and_dir_lists_what_is_public():
    code = (
        "import sys, svgbench, svgbench.api; print(*dir(svgbench)); sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and set(done.stdout.split()) >= FUNCTIONS and set(svgbench.__all__) >= FUNCTIONS
    with pytest.raises(AttributeError, match="has no attribute 'lode_run'"):
        _ = svgbench.lode_run


def test_public_functions_are_typed_and_documented_and_go_around_the_command_line():
    for name in FUNCTIONS:
        function = getattr(svgbench, name)
        signature = inspect.signature(function)
        assert inspect.getdoc(function) and signature.return_annotation is not inspect.Signature.empty, name
        assert all(one.annotation is not inspect.Parameter.empty for one in signature.parameters.values()), name
    for path in (Path(svgbench.__file__).parent / "api").glob("*.py"):
        assert "svgbench.cli" not in path.read_text()


def test_results_have_a_row_a_score_and_typed_columns(notebook):
    table = notebook["results"]
    kinds = {name: str(kind) for name, kind in table.dtypes.items()}
    assert kinds["metric"] == "string" and kinds["value"] == "Float64" and kinds["steps"] == "Int64" and kinds["count"] == "Int64"
    gfid = table[table["metric"] == "gfid"]
    assert gfid["steps"].tolist() == [2] and gfid["guidance"].tolist() == [1.0] and table[table["metric"] == "psnr"]["steps"].isna().all()
    assert table["protocol"].str.contains("/v1").all() and table["interval"].notna().all()
    stored = json.loads((Path(notebook["out"]) / notebook["name"] / "scores.json").read_text())
    assert table["value"].tolist() == [row["value"] for row in stored]
    with pytest.raises(UnknownName):
        svgbench.results(notebook["out"], ["dinov9"])


def test_a_second_run_answers_from_the_store_and_its_plan_is_finished(notebook):
    table = svgbench.plan("smoke", out=notebook["out"], settings=notebook["settings"])
    assert set(table["state"]) == {"exists"} and str(table["bytes"].dtype) == "Int64" and (table["runs"] == 1).all()
    again = svgbench.run("smoke", out=notebook["out"], settings=notebook["settings"], device="cpu")
    assert again.equals(notebook["scores"])


def test_a_loaded_run_samples_as_its_stored_samples_were_drawn(notebook):
    trained = notebook["trained"]
    assert trained.config.preset == "tiny" and trained.scores.equals(notebook["results"])
    store = Path(notebook["out"]) / "store" / "samples"
    drawn = np.load(
        next(
            store.glob("*/samples.npy"),
        )
    )
    labels = np.load(next(store.glob("*/labels.npy")))
    found = trained.sample(labels[:12].tolist(), steps=2, guidance=1.0)
    assert torch.equal((found.clamp(0, 1) * 255).round().to(torch.uint8), torch.from_numpy(drawn[:12]))
    assert not torch.equal(found, trained.sample(labels[:12].tolist(), steps=2, guidance=1.0, seed=1))
    assert not torch.equal(found, trained.sample(labels[:12].tolist(), steps=2, guidance=1.0, zero_init=1))
    for bad, error, sentence in (
        ({"labels": [99]}, BadInput, r"class 99 does not exist; this model has classes 0 to"),
        ({"labels": [0], "shift": 0.0}, BadConfig, "shift must be 0.001 or more"),
        ({"labels": [0], "guidance": -1.0}, BadConfig, "guidance must be from 0 to 100"),
        ({"labels": [0], "precision": "fp16"}, BadConfig, "precision must be fp32 or bf16, not fp16"),
        ({"labels": [0], "steps": 2, "zero_init": 2}, BadConfig, "zero_init 2 must be at least 0 and below the 2 steps"),
    ):
        with pytest.raises(error, match=sentence):
            trained.sample(**bad)
    with pytest.raises(UnknownName):
        svgbench.load_run(notebook["out"], "dinov9")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = SiT(channels=4, grid=4, width=16, depth=1, heads=2, classes=10)
    for weight in net.parameters():  # a SiT begins with zero outputs
        torch.nn.init.normal_(weight, std=0.2)
    return net.eval()


@pytest.mark.parametrize(("changed", "error", "sentence"), [
    ({"shift": 0.0}, BadConfig, r"shift must be 0\.001 or more, and finite, not 0\."),
    ({"shift": float("nan")}, BadConfig, "shift must be"),
    ({"shift": float("inf")}, BadConfig, "shift must be"),
    ({"guidance": -0.5}, BadConfig, r"guidance must be from 0 to 100, not -0\.5"),
    ({"guidance": 101.0}, BadConfig, "guidance must be from 0 to 100, not 101"),
    ({"steps": 0}, BadConfig, "steps must be from 1 to 4000, not 0"),
    ({"guided_channels": 5}, BadConfig, "guided_channels must be from 1 to 4, not 5"),
    ({"labels": [0, 11]}, BadInput, "class 11 does not exist; this model has classes 0 to 9; 10 is unconditional"),
    ({"labels": [0, -1]}, BadInput, "class -1 does not exist"),
    ({"labels": [0.5, 1.5]}, BadInput, "give whole numbers"),
    ({"labels": [0]}, BadInput, "give one label for each row of noise"),
    ({"noise": torch.zeros(2, 3, 4, 4)}, BadInput, r"this model's latents are \[B, 4, 4, 4\]"),
    ({"noise": torch.zeros(2, 4, 8, 8)}, BadInput, r"this model's latents are \[B, 4, 4, 4\]"),
    ({"noise": torch.zeros(4, 4, 4)}, BadInput, r"give \[B, C, h, w\]"),
    ({"sampler": "ddim"}, BadConfig, "does not fit a model that predicts velocities"),
])  # fmt: skip
def test_sample_refuses_in_one_sentence_what_is_out_of_range(model, changed, error, sentence):
    arguments = {"noise": torch.zeros(2, 4, 4, 4), "labels": [0, 1], "steps": 2, **changed}
    with pytest.raises(error, match=sentence) as caught:
        svgbench.sample(model, **arguments)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_sample_takes_the_defaults_that_a_model_carries(model, monkeypatch):
    noise, labels = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 10])
    wanted = plain_sample(model, noise, labels, steps=3, guidance=2.0)
    assert torch.equal(svgbench.sample(model, noise, labels, steps=3, guidance=2.0), wanted)
    assert svgbench.sample(model, noise, labels, steps=3, shift=LEAST_SHIFT).isfinite().all()
    monkeypatch.setattr(model, "sampling", sampling_of("lightningdit", 4, 4), raising=False)
    carried = svgbench.sample(model, noise, labels, steps=3, guidance=2.0)
    same = {"shift": 0.3, "schedule": "interval-0.11-1", "guided_channels": 3}
    assert torch.equal(carried, plain_sample(model, noise, labels, steps=3, guidance=2.0, **same)) and not torch.equal(carried, wanted)
    everything = {"shift": 0.15, "schedule": "constant", "guided_channels": 4}
    assert torch.equal(svgbench.sample(model, noise, labels, steps=3, guidance=2.0, **everything), wanted)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_python_and_import_sample_a_release_alike(kind):
    config = build({"encoder": {"card": "sd-vae"}, **{k: v for k, v in SETTINGS[kind].items() if k == "sampling"},
                    "diffusion": {"objective": "ddpm" if kind == "dit" else "flow"}}, preset="paper")  # fmt: skip
    carried = sampling_of(kind, 4, config.data.resolution // 8)
    taken = config.sampling.model_dump()
    taken["zero_init"] = config.sampling.zero_init  # left out of a file where it is 0
    assert carried and all(taken[name] == value for name, value in carried.items() if kind != "dit" or name != "shift")
    assert taken["zero_init"] == (1 if kind == "svg-dit" else 0)  # the preset's skipped first step is of SVG's tables alone


def test_published_numbers_are_a_typed_table():
    table = svgbench.published()
    assert len(table) > 500 and str(table["value"].dtype) == "Float64" and str(table["guided"].dtype) == "boolean"
    assert table["source"].notna().all() and "gfid" in set(table["metric"])


def test_frechet_distance_of_features_is_the_formula():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(200, 3)), generator.normal(loc=1.0, size=(300, 3))
    root = np.linalg.eigvals(np.cov(first.T) @ np.cov(second.T)).real.clip(0) ** 0.5
    wanted = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(np.cov(first.T) + np.cov(second.T)) - 2 * root.sum()
    assert svgbench.frechet_distance(torch.from_numpy(first), torch.from_numpy(second)) == pytest.approx(wanted, rel=1e-9)
    statistics = (torch.from_numpy(second.mean(0)), torch.from_numpy(np.cov(second.T)))
    assert svgbench.frechet_distance(torch.from_numpy(first), statistics) == pytest.approx(wanted, rel=1e-9)
    with pytest.raises(BadInput, match=r"features of shape \[4\]"):
        svgbench.frechet_distance(torch.zeros(4), statistics)
    with pytest.raises(BadInput, match="statistics of shapes"):
        svgbench.frechet_distance(torch.from_numpy(first), (torch.zeros(3), torch.zeros(2, 2)))


def test_generation_scores_are_those_of_eval_from_memory_and_from_files(notebook, tmp_path):
    given, reference = (notebook[name].numpy() for name in ("given", "reference"))
    np.save(tmp_path / "given.npy", given)
    np.save(tmp_path / "reference.npy", reference)
    found = svgbench.generation_scores(tmp_path / "given.npy", tmp_path / "reference.npy", extractor="shapes-cnn", device="cpu")
    assert found["value"].tolist() == notebook["shown"][6]["value"].tolist() and str(found["low"].dtype) == "Float64"
    assert found["count"].tolist() == [100] * 5 and found["protocol"].str.startswith(("fd-", "is-", "kd-", "pr-")).all()
    with pytest.raises(BadData, match=r"the images are float32 \[2, 3, 4, 4\]; give uint8"):
        svgbench.generation_scores(np.zeros((2, 3, 4, 4), np.float32), reference, extractor="shapes-cnn", device="cpu")
