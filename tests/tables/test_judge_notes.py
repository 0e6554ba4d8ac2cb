"""Networks that were trained on drawn images and judge others: every table of every format says so, and no table of drawn images does."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import svgbench
from fake_runs import gfid, score, seal_record, write
from PIL import Image

from svgbench.config.build import build
from svgbench.config.parse import merge
from svgbench.config.records import RUN_FORMAT, unseal
from svgbench.config.schema import Data
from svgbench.errors import BadWeights
from svgbench.images.packing import pack
from svgbench.lab.plan import make_plan, resolve
from svgbench.machine.runtime import Runtime

WORDS = "not on photographs"
SHIPPED = {"scores": {"extractor": "shapes-cnn", "perceptual": "shapes-lpips"}, "autoencoder": {"loss": {"network": "shapes-lpips"}}}


@pytest.fixture
def photographs(tmp_path):
    """Class folders of noise."""
    random = np.random.default_rng(0)
    for number in range(60):
        path = tmp_path / "photographs" / ("train" if number % 2 else "val") / "ab"[number % 3 % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photographs"


def config(source, **more):
    return merge({"data": {"source": str(source)}, "scores": {"extractor": "inception", "perceptual": "lpips"}}, more)


def runs(out, **configs):
    """A run for each name, with scores of every table."""
    for name, own in configs.items():
        write(out / name, [gfid(name, 3.0), score(name, "rfid", 2.0), score(name, "psnr", 20.0)], config=own)
    return out


def tables(text):
    """The tables of a report in markdown by their titles."""
    return {part.splitlines()[0]: part for part in text.split("### ")[1:]}


def test_every_table_says_that_its_judges_do_not_know_photographs(tmp_path, photographs):
    out = runs(tmp_path / "runs", a=config(photographs, scores={"extractor": "shapes-cnn"}))
    found = tables(svgbench("report", "--out", out, "--format", "markdown").stdout)
    assert len(found) == 3 and all(WORDS in text and "shapes-cnn (scores.extractor)" in text for text in found.values())
    for format in ("csv", "latex", "html"):
        assert svgbench("report", "--out", out, "--format", format).stdout.count(WORDS) >= len(found)
    rows = json.loads(svgbench("report", "--out", out, "--format", "json").stdout)
    assert len(rows) == 3 and all(WORDS in row["detail"]["judges"] for row in rows)
    layouts = tables(svgbench("report", "--out", out, "--format", "markdown", "--layout", "main").stdout)
    measured = [text for title, text in layouts.items() if "ublished" not in title]
    assert measured and all(WORDS in text for text in measured)


@pytest.mark.parametrize(("field", "more"), [
    ("shapes-lpips (scores.perceptual)", {"scores": {"perceptual": "shapes-lpips"}}),
    ("shapes-cnn (scores.second_extractor)", {"scores": {"second_extractor": "shapes-cnn"}}),
])  # fmt: skip
def test_each_judge_is_named_and_only_the_runs_that_it_judged(tmp_path, photographs, field, more):
    out = runs(tmp_path / "runs", mine=config(photographs, **more), other=config(photographs), drawn=config("shapes", **SHIPPED))
    for text in tables(svgbench("report", "--out", out, "--format", "markdown").stdout).values():
        (note,) = [line for line in text.splitlines() if WORDS in line]
        assert note.startswith(f"- mine: {field}")
    rows = json.loads(svgbench("report", "--out", out, "--format", "json").stdout)
    assert {row["run"] for row in rows if "judges" in row["detail"]} == {"mine"}


def test_a_loss_counts_where_an_autoencoder_was_trained_with_it(tmp_path, photographs):
    loss = {"autoencoder": {"loss": {"network": "shapes-lpips", "perceptual": 1.0, "weights": None}}}
    out = runs(tmp_path / "runs", adopted=config(photographs, **loss), trained=config(photographs, **loss))
    about = unseal((out / "trained" / "run.json").read_bytes(), RUN_FORMAT)
    about["stages"].append({**about["stages"][0], "stage": "autoencoder"})
    seal_record(out / "trained", about)
    rows = json.loads(svgbench("report", "--out", out, "--format", "json").stdout)
    assert {row["run"]: row["detail"].get("judges", "").partition(":")[0] for row in rows} == {
        "trained": "shapes-lpips (autoencoder.loss.network)", "adopted": "",
    }  # fmt: skip


def test_drawn_images_packed_by_a_user_are_known_to_the_networks_trained_on_them(tmp_path):
    place = tmp_path / "packed"
    pack(Data(source="shapes", resolution=32, train_images=12, val_images=12), place, Runtime(device="cpu", quiet=True))
    out = runs(tmp_path / "runs", a=config(place, **SHIPPED))
    assert WORDS not in svgbench("report", "--out", out, "--format", "markdown").stdout


@pytest.mark.parametrize("card", ["dinov3", "sd-vae-ema"])
def test_the_preset_small_asks_for_inception_and_lpips_before_anything_runs(photographs, card):
    made = build({"data": {"source": str(photographs)}, "encoder": {"card": card}}, preset="small")
    with pytest.raises(BadWeights) as refused:
        make_plan({"a": made})
    said = str(refused.value)
    wanted = ["--set scores.extractor_weights=FILE", "--set scores.lpips_weights=FILE", "--set scores.extractor=shapes-cnn", "https://"]
    assert all(words in said for words in wanted) and refused.value.exit_status == 2
    assert ("--set autoencoder.loss.weights=FILE" in said and "autoencoder.loss.network=shapes-lpips" in said) == (card == "dinov3")


def test_the_command_refuses_with_one_sentence_and_makes_nothing(tmp_path, photographs):
    done = svgbench("run", "--preset", "small", "--data", photographs, "--out", tmp_path / "runs", "--encoder", "mae-tiny")
    assert done.returncode == 2 and "'inception' needs its weights file" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_whoever_chooses_the_shipped_networks_gets_them(photographs):
    made = build({"data": {"source": str(photographs)}, "encoder": {"card": "mae-tiny"}, **SHIPPED}, preset="small")
    assert make_plan({"a": resolve(made)}).nodes
    own = build({}, preset="small")
    assert (own.scores.extractor, own.scores.perceptual, own.autoencoder.loss.network) == ("shapes-cnn", "shapes-lpips", "shapes-lpips")


def test_the_preset_tiny_runs_on_any_folder(photographs):
    assert make_plan({"a": resolve(build({"data": {"source": str(photographs)}}, preset="tiny"))}).nodes


def test_images_from_elsewhere_judged_by_the_shipped_classifier_say_so(tmp_path, photographs):
    words = ("eval", photographs / "train" / "a", "--reference", photographs / "val" / "a", "--extractor", "shapes-cnn")
    (note,) = [line for line in svgbench(*words, "--format", "markdown").stdout.splitlines() if WORDS in line]
    assert note.startswith("- shapes-cnn: trained on drawn images, not on photographs")
    pack(Data(source="shapes", resolution=40, train_images=12, val_images=12), tmp_path / "packed", Runtime(device="cpu", quiet=True))
    drawn = svgbench("eval", photographs / "train" / "a", "--reference", tmp_path / "packed", "--extractor", "shapes-cnn",
                     "--format", "json")  # fmt: skip
    assert drawn.returncode == 0 and not any("judges" in row["detail"] for row in json.loads(drawn.stdout)), drawn.stderr


@pytest.mark.parametrize("source, judge, noted", [("shapes", "shapes", False), ("scenes", "scenes", False), ("scenes", "shapes", True)])
def test_a_judge_of_drawn_images_knows_those_of_its_own_source_alone(tmp_path, source, judge, noted):
    images = {"extractor": f"{judge}-cnn", "perceptual": f"{judge}-lpips"}
    of_the_run = config(source, scores=images, autoencoder={"loss": {"network": f"{judge}-lpips"}})
    out = runs(tmp_path / "runs", a=of_the_run)
    assert (f"{judge}-cnn (scores.extractor)" in svgbench("report", "--out", out, "--format", "markdown").stdout) == noted
    packed = pack(Data(source=source, resolution=32, train_images=8, val_images=4), tmp_path / "packed", Runtime(device="cpu", quiet=True))
    assert packed["source"] == source
    out = runs(tmp_path / "again", a=config(tmp_path / "packed", scores=images))
    assert (f"{judge}-cnn (scores.extractor)" in svgbench("report", "--out", out, "--format", "markdown").stdout) == noted
