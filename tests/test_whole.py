"""The whole tiny graph: it runs, a second run does nothing, a killed one goes on, a failing cell stops only what depends on it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import alone, svgbench
from PIL import Image

pytestmark = pytest.mark.slow
FAST = ["--threads", "1", "--set", "scores.segmentation.epochs=1"]


def records(out: Path) -> list[dict]:
    return json.loads(svgbench("report", "--out", str(out), "--format", "json").stdout)


def keys(out: Path) -> set[str]:
    return {f"{p.parent.parent.name}/{p.parent.name}" for p in out.glob("store/*/*/manifest.json")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "runs"
    done = alone("ablate", "smoke", "--out", str(out), *FAST)
    assert done.returncode == 0, done.stderr
    return out


def test_the_whole_graph_gives_every_score_with_protocol_count_and_interval(finished):
    rows = records(finished)
    wanted = {
        "gfid",
        "rfid",
        "psnr",
        "ssim",
        "ssim_signed",
        "lpips",
        "is",
        "kid",
        "precision",
        "recall",
        "probe_top1",
        "probe_top5",
        "knn_top1",
        "logreg_top1",
        "miou",
        "macc",
    }
    assert {row["metric"] for row in rows} == wanted
    assert {(r["steps"], r["guidance"]) for r in rows if r["metric"] == "gfid"} == {(2, 1.0), (2, 2.0), (3, 1.0), (3, 2.0)}
    fields = {"run", "encoder", "family", "align", "residual_channels", "preset", "seed", "metric", "value", "low", "high", "count"}
    fields |= {"steps", "guidance", "protocol", "key", "images_seen", "seconds"}
    for row in rows:
        assert fields <= row.keys() and np.isfinite(row["value"]) and row["low"] <= row["value"] <= row["high"]
        assert row["protocol"] and row["count"] == 48 and row["images_seen"] == 192


def test_the_second_time_runs_nothing_and_prints_the_same(finished):
    before = {p: p.stat().st_mtime_ns for p in finished.glob("store/*/*/*")}
    again = alone("ablate", "smoke", "--out", str(finished), *FAST)
    assert again.returncode == 0 and "images" not in again.stderr
    assert {p: p.stat().st_mtime_ns for p in finished.glob("store/*/*/*")} == before
    report = svgbench("report", "--out", str(finished)).stdout
    assert report.strip() == again.stdout.strip()


def test_a_trial_stands_beside_the_whole_run_and_is_never_ranked_with_it(finished, tmp_path):
    import shutil

    out = tmp_path / "runs"
    shutil.copytree(finished, out)
    done = svgbench("ablate", "smoke", "--out", str(out), "--limit", "40", *FAST)
    assert done.returncode == 0, done.stderr
    limits = {(row["metric"], row["protocol_fields"]["limit"]) for row in records(out)}
    assert limits == {(metric, limit) for metric, _ in limits for limit in (None, 40)}
    table = svgbench("report", "--out", str(out)).stdout
    assert "limit (none, 40)" in table.replace("limit (40, none)", "limit (none, 40)") and "not ranked together" in table


def test_a_run_directory_is_readable_without_this_program(finished):
    place = next(finished.glob("*/run.json")).parent
    assert {"config.yaml", "run.json", "scores.json", "overview.png"} <= {p.name for p in place.iterdir()}
    with Image.open(place / "overview.png") as sheet:
        assert sheet.width > 500 and np.asarray(sheet).std() > 10


def test_samples_of_a_finished_run_can_be_drawn(finished, tmp_path):
    run = next(finished.glob("*/run.json")).parent.name
    done = svgbench(
        "sample", run, "--out", str(finished), "--labels", "3,1", "--steps", "2", "--guidance", "2", "--to", str(tmp_path / "a.png")
    )
    assert done.returncode == 0, done.stderr
    wrong = svgbench("sample", run, "--out", str(finished), "--labels", "77", "--to", str(tmp_path / "b.png"))
    assert wrong.returncode == 2 and "class 77 does not exist" in wrong.stderr and not (tmp_path / "b.png").exists()


def test_a_finished_run_and_an_encoder_have_cards_side_by_side(finished, tmp_path):
    import shutil

    out, run = tmp_path / "runs", next(finished.glob("*/run.json")).parent.name
    shutil.copytree(finished, out)
    done = svgbench("diagnose", run, "sd-vae", "--preset", "tiny", "--limit", "48", "--out", out, "--threads", 1, "--format", "json")
    assert done.returncode == 0, done.stderr
    mine, other = json.loads(done.stdout)
    assert (mine["name"], other["name"]) == (run, "sd-vae") and mine["latent"][0] > 96 and other["latent"] == [4, 8, 8]
    assert {"ifid", "noise_psnr_0", "lds"} <= {score["metric"] for score in mine["scores"]}
    made = {key.split("/")[0] for key in keys(out) - keys(finished)}
    assert made <= {"images", "adoption", "diffusability", "interpolated-distance"}  # no statistics: the run has them
    wrong = svgbench("diagnose", run, "--limit", "48", "--out", out)
    assert wrong.returncode == 2 and "only runs are named" in wrong.stderr


FIGURES = {
    "gfid-by-steps", "gfid-by-guidance", "training-curves", "reconstructions", "samples", "embedding", "embedding-by-classes",
    "embedding-by-layer", "toy-field", "velocities", "class-share", "interpolation", "noise-interpolation", "editing", "box-editing",
    "feature-maps",
}  # fmt: skip
DIAGNOSES = {
    "embedding", "velocities", "residual-left-out", "interpolation", "editing", "class-embedding", "layer-embedding", "box-editing",
    "noise-interpolation", "feature-maps",
}  # fmt: skip


def test_figures_of_a_finished_run_are_drawn_and_measured_once(finished, tmp_path):
    import shutil

    out, run = tmp_path / "runs", next(finished.glob("*/run.json")).parent.name
    shutil.copytree(finished, out)
    first = svgbench("figures", run, "--out", str(out), "--threads", "1")
    assert first.returncode == 0, first.stderr
    made = {key.split("/")[0] for key in keys(out) - keys(finished)}
    assert made == DIAGNOSES
    files = {path.name: path.read_bytes() for path in (out / "figures").iterdir()}
    assert set(files) == {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "csv", "json")}
    for name in FIGURES:
        with Image.open(out / "figures" / f"{name}.png") as picture:
            assert picture.width >= 1000 and np.asarray(picture.convert("L")).std() > 5
        assert len(files[f"{name}.csv"].splitlines()) > 2 and json.loads(files[f"{name}.json"])["caption"]
    assert "After figure 6 of arXiv 2510.15301." in json.loads(files["box-editing.json"])["caption"]
    _check_numbers(out)
    again = svgbench("figures", "smoke", "--out", str(out), "--to", str(tmp_path / "again"), *FAST[:2])
    assert again.returncode == 0 and not {line.split()[0] for line in again.stderr.splitlines()} & made
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == files


def _check_numbers(out: Path) -> None:
    """What the diagnoses of a run measured: the pictures' sizes, an inversion that returns the image, norms, shares."""
    about = {path.parent.parent.name: json.loads(path.read_text()) for path in out.glob("store/*/*/pictures.json")}
    boxed, noises, maps = (about[stage] for stage in ("box-editing", "noise-interpolation", "feature-maps"))
    assert max(boxed["back"]) < 0.05 and boxed["box"] == [8, 24]  # of latents of unit deviation
    assert all(edit[edit["edit"]] > [0.3, 0.3] for edit in boxed["distances"])
    straight, circle = noises["norms"][:2]
    assert 0.6 < straight[3] < 0.8 and min(circle) > 0.9 and noises["ways"] == ["linear", "spherical"]
    assert all(0 < sum(shares) <= 1 + 1e-9 and shares == sorted(shares, reverse=True) for at in maps["shares"][0] for shares in at)
    layers = json.loads(next(out.glob("store/layer-embedding/*/embedding.json")).read_text())
    assert layers["parts"] == ["block 1", "block 2", "block 3", "block 4", "latents, alignment left out", "latents"]


def test_figures_of_a_codec_and_of_a_noise_predictor_have_no_residual_and_are_edited_all_the_same(tmp_path):
    grid, out = tmp_path / "two.yaml", tmp_path / "runs"
    grid.write_text(
        "base: smoke\nrun: r\n"
        "set:\n  scores: {segmentation.enabled: false, probe.epochs: 1}\n  sampling: {steps: [2], guidance: [2.0]}\n"
        "  diffusion.transformer.heads: 4\naxes:\n  recipe:\n    dit: {base: dit}\n    svg: {autoencoder.residual.channels: 0}\n"
    )
    done = svgbench("ablate", str(grid), "--out", str(out), "--threads", "1")
    assert done.returncode == 0, done.stderr
    done = svgbench("figures", "--out", str(out), "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert "two counts of steps" in done.stderr and not (out / "figures" / "gfid-by-steps.png").exists()
    lines = (out / "figures" / "embedding.csv").read_text().splitlines()[1:]
    assert {tuple(line.split(",")[:2]) for line in lines} == {("r.dit", "features"), ("r.svg", "features")}
    assert not any("left out" in line for line in (out / "figures" / "reconstructions.csv").read_text().splitlines())
    edits = np.load(next(out.glob("store/editing/*/pictures.npy")))
    assert edits.shape == (2, 6, 3, 32, 32) and len({picture.tobytes() for picture in edits[0]}) == 6


def test_a_flipped_bit_in_an_artifact_is_said_and_not_used(finished, tmp_path):
    import shutil

    copy = tmp_path / "runs"
    shutil.copytree(finished, copy)
    path = next(copy.glob("store/diffusion/*/sit.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    done = svgbench("ablate", "smoke", "--out", str(copy), *FAST, "--set", "sampling.steps=[4]")
    assert done.returncode == 2 and "sit.safetensors" in done.stderr and "run again" in done.stderr


def hashes(out: Path) -> dict[str, dict[str, str]]:
    """Digests of what was trained, drawn and scored, without logs, which hold times."""
    found = {}
    for path in out.glob("store/*/*/manifest.json"):
        manifest = json.loads(path.read_text())
        found[f"{manifest['stage']} {manifest['key']}"] = {n: d for n, d in manifest["files"].items() if n != "log.jsonl"}
    return found


def test_killed_again_and_again_it_ends_with_the_same_bits(finished, tmp_path):
    out = tmp_path / "runs"
    words = [sys.executable, "-m", "svgbench", "ablate", "smoke", "--out", str(out), *FAST]
    for seconds in (6.0, 9.0):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = alone("ablate", "smoke", "--out", str(out), *FAST)
    assert done.returncode == 0, done.stderr
    assert hashes(out) == hashes(finished)


def test_a_termination_signal_is_status_4_and_resumable(tmp_path):
    out = tmp_path / "runs"
    words = [
        sys.executable,
        "-m",
        "svgbench",
        "ablate",
        "smoke",
        "--out",
        str(out),
        *FAST,
        "--set",
        "diffusion.training.total_images=100000",
    ]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 240
    while time.time() < deadline and not list(out.glob("store/diffusion/*.partial/log.jsonl")):
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 4, err
    assert "run the same command again to resume" in err.splitlines()[-1]
    assert list(out.glob("store/diffusion/*.partial/checkpoints/*"))


def test_one_failing_cell_stops_only_what_depends_on_it(tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text("base: smoke\naxes:\n  extractor:\n    good: {scores.extractor: shapes-cnn}\n    bad: {scores.neighbours: 500}\n")
    done = svgbench("ablate", str(grid), "--out", str(tmp_path / "runs"), *FAST)
    assert done.returncode == 3, done.stderr
    rows = records(tmp_path / "runs")
    assert len({row["run"] for row in rows}) == 2  # the bad cell keeps its other scores
    assert "neighbour" in svgbench("report", "--out", str(tmp_path / "runs")).stdout


def test_a_folder_of_images_goes_through_the_same_graph_and_packed_it_gives_the_same_numbers(tmp_path):
    random = np.random.default_rng(0)
    for label in ("cats", "dogs", "owls"):
        for i in range(24):
            path = tmp_path / "data" / ("val" if i < 7 else "train") / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 255, (44, 40, 3), dtype=np.uint8)).save(path)
    (tmp_path / "data" / "train" / "cats" / "empty.txt").write_text("not an image")
    packed = svgbench("data", "pack", str(tmp_path / "data"), "--to", str(tmp_path / "packed"), "--resolution", "32")
    assert packed.returncode == 0, packed.stderr
    sets = ["data.train_images=", "data.val_images=", "sampling.steps=[2]", "sampling.guidance=[1.0]", "scores.neighbours=2"]
    found = {}
    for source in ("data", "packed"):
        chosen = [w for s in (*sets, f"data.source={tmp_path / source}") for w in ("--set", s)]
        done = svgbench("ablate", "smoke", "--out", str(tmp_path / f"{source}.runs"), *FAST, *chosen)
        assert done.returncode == 0, done.stderr
        found[source] = [(row["metric"], row["value"], row["protocol"]) for row in records(tmp_path / f"{source}.runs")]
    assert found["packed"] == found["data"]
    metrics = {metric for metric, *_ in found["data"]}
    assert {"gfid", "rfid", "psnr", "probe_top1"} <= metrics and "miou" not in metrics


def test_two_processes_under_torchrun_make_the_run_of_one(finished, tmp_path):
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "svgbench", "ablate", "smoke"]
    done = subprocess.run([sys.executable, *words, "--out", str(tmp_path / "runs"), *FAST], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    one, two = (
        {(r["metric"], r["steps"], r["guidance"], r["detail"].get("latents")): r["value"] for r in records(o)}
        for o in (finished, tmp_path / "runs")
    )
    assert one.keys() == two.keys()
    for name in one:
        if name[0] == "psnr":
            assert two[name] == pytest.approx(one[name], rel=0.02)


def test_the_samples_a_run_was_scored_by_are_exported_and_score_the_same_again(finished, tmp_path):
    """The reference is another one here (given as images), so of the numbers only those without a reference must be equal."""
    (run,) = {row["run"] for row in records(finished)}
    done = svgbench("sample", run, "--to", str(tmp_path / "s.npz"), "--steps", "2", "--guidance", "1", "--out", str(finished))
    assert done.returncode == 0, done.stderr
    file = str(tmp_path / "s.npz")
    again = svgbench("eval", file, "--reference", file, "--extractor", "shapes-cnn", "--format", "json")
    found = {row["metric"]: row["value"] for row in json.loads(again.stdout)}
    (score,) = (r["value"] for r in records(finished) if r["metric"] == "is" and r["steps"] == 2 and r["guidance"] == 1.0)
    assert found["is"] == pytest.approx(score, rel=1e-6) and found["gfid"] == pytest.approx(0, abs=1e-6)
    none = svgbench("sample", run, "--to", str(tmp_path / "s.npz"), "--steps", "7", "--out", str(finished))
    assert none.returncode == 2 and "it has: --steps 2 --guidance 1" in none.stderr


def test_every_recipe_runs_to_its_gfid_and_shares_what_is_equal(tmp_path):
    """The recipes at the size of ``smoke``: one names noise, one has a teacher, one a ViT decoder, a wide head, a weak model."""
    grid = tmp_path / "recipes.yaml"
    grid.write_text(
        "base: smoke\nrun: r\n"
        "set:\n"
        "  autoencoder.decoder.vit: {width: 32, layers: 1, heads: 2, mlp: 64}\n"
        "  diffusion: {representation.width: 32, transformer: {heads: 4}}\n"
        "  scores: {segmentation.enabled: false, probe.epochs: 1}\n"
        "  sampling: {steps: [2], guidance: [2.0]}\n"
        "axes:\n  recipe:\n    dit: {base: dit}\n    sit: {base: sit}\n    repa: {base: repa}\n    rae: {base: rae}\n"
    )
    done = svgbench("ablate", str(grid), "--out", str(tmp_path / "runs"), "--threads", "1")
    assert done.returncode == 0, done.stderr
    found = {row["run"]: row["value"] for row in records(tmp_path / "runs") if row["metric"] == "gfid"}
    assert set(found) == {"r.dit", "r.sit", "r.repa", "r.rae"} and len(set(found.values())) == 4
    made = keys(tmp_path / "runs")
    assert sum(key.startswith("diffusion/") for key in made) == 4  # the codec's latents and reconstructions are made once for three
    assert sum(key.startswith("reconstructions/") for key in made) == 2
    assert list((tmp_path / "runs/store/diffusion").glob("*/weak.safetensors"))


def test_a_snapshot_is_the_run_that_stopped_there(tmp_path):
    """At a constant rate the averaged weights after half of 192 images are those of a training over 96, and so are their samples."""
    grid = tmp_path / "along.yaml"
    grid.write_text(
        "base: smoke\nrun: r\n"
        "set:\n"
        "  encoder.card: sd-vae\n"
        "  diffusion.training.optimiser.schedule: constant\n"
        "  scores: {segmentation.enabled: false, probe.epochs: 1}\n"
        "  sampling: {steps: [2], guidance: [1.0]}\n"
        "axes:\n  length:\n"
        "    whole: {diffusion.snapshots: [0.5], sampling.trained: [0.5, 1.0]}\n"
        "    half: {diffusion.training.total_images: 96}\n"
    )
    done = svgbench("ablate", str(grid), "--out", str(tmp_path / "runs"), "--threads", "1")
    assert done.returncode == 0, done.stderr
    found = {(row["run"], row["images_seen"]): row["value"] for row in records(tmp_path / "runs") if row["metric"] == "gfid"}
    assert set(found) == {("r.whole", 96), ("r.whole", 192), ("r.half", 96)}
    assert found["r.whole", 96] == found["r.half", 96] != found["r.whole", 192]
    table = svgbench("report", "--out", str(tmp_path / "runs"), "--format", "markdown").stdout
    assert "| 96 images [1]" in table.split("Generation along the training")[1]
