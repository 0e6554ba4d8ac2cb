"""The scoring stages: one process and several give the same numbers, whichever reference a run names; what cannot be scored is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import in_ranks

from svgbench.config.records import Protocol
from svgbench.config.schema import Data
from svgbench.config.scoring import SPACES
from svgbench.errors import BadData, BadInput, NumericalError, SvgbenchError
from svgbench.images import shapes
from svgbench.images.packing import pack
from svgbench.machine.files import sha256_of
from svgbench.machine.runtime import Runtime
from svgbench.metrics import judges
from svgbench.metrics.features import Extractor, Tap, extract, load_extractor
from svgbench.metrics.frechet import united
from svgbench.metrics.samples import check_samples
from svgbench.stages import scores

QUIET = Runtime(device="cpu", threads=1, quiet=True)
SCORES = {
    "extractor": "shapes-cnn", "extractor_weights": None, "reference": None, "neighbours": 3, "resamples": 3,
    "perceptual": "shapes-lpips", "lpips_weights": None, "second_extractor": "shapes-cnn", "second_extractor_weights": None,
}  # fmt: skip
SLICE = {"scores": SCORES, "seed": 0}
COUNT, TRAIN, VAL = 301, 263, 131
"""Odd, so that neither batches nor ranks divide them."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Path]:
    """What the stages stand on: a store of images, samples and reconstructions, as finished artifacts."""
    place = tmp_path_factory.mktemp("artifacts")
    found = {name: place / name for name in ("images", "samples", "reconstructions")}
    for folder in found.values():
        folder.mkdir()
    pack(Data(source="shapes", resolution=32, train_images=TRAIN, val_images=VAL), found["images"], QUIET)
    files = {path.name: sha256_of(path) for path in found["images"].glob("*.npy")}
    (found["images"] / "manifest.json").write_text(json.dumps({"files": files}))
    drawn = shapes.draw(np.arange(5000, 5000 + COUNT), seed=1, resolution=32, split="val")
    np.save(found["samples"] / "samples.npy", drawn.images)
    np.save(found["samples"] / "labels.npy", np.asarray(drawn.labels, dtype=np.int64))
    made = {"count": COUNT, "labels": "balanced", "sampler": "euler", "steps": 5, "guidance": 1.0, "shift": 0.15, "schedule": "constant",
            "against": "null", "guided_channels": None}  # fmt: skip
    (found["samples"] / "manifest.json").write_text(json.dumps({"slice": {"sampling": made}}))
    np.save(found["reconstructions"] / "reconstructions.npy", np.load(found["images"] / "val.images.npy") ^ 3)
    return found


def scored(inputs: dict[str, Path], out: Path, runtime: Runtime, **changed: str) -> None:
    """All scoring stages of distances, each in its own directory below ``out``."""
    slice_ = {**SLICE, "scores": {**SCORES, **changed}}
    known = dict(inputs)
    for name, stage in (
        ("references", scores.references), ("second-references", scores.second_references), ("originals", scores.originals),
        ("generation", scores.generation), ("second", scores.second_generation), ("reconstruction", scores.reconstruction),
    ):  # fmt: skip
        known[name] = out / name
        if runtime.is_main:
            known[name].mkdir(parents=True)
        runtime.barrier()
        stage(slice_, known, known[name], runtime)
        runtime.barrier()


def read(out: Path) -> dict[str, dict]:
    """The scores of all stages by metric, the second extractor's under ``second``."""
    rows = {name: json.loads((out / name / "scores.json").read_text()) for name in ("generation", "second", "reconstruction")}
    return {row["metric"] if name != "second" else name: row for name, part in rows.items() for row in part}


def text(row: dict) -> str:
    """A score's protocol in one line."""
    return Protocol.model_validate(row["protocol"]).text


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_images_and_write_the_scores_of_one_process(tmp_path, inputs, world):
    scored(inputs, tmp_path / "one", QUIET)

    def work():
        runtime = QUIET.start()
        scored(inputs, tmp_path / "many", runtime)
        runtime.stop()

    assert in_ranks(world, work) == [0] * world
    one, many = read(tmp_path / "one"), read(tmp_path / "many")
    assert (
        one.keys() == many.keys() == {"gfid", "is", "kid", "precision", "recall", "second", "rfid", "psnr", "ssim", "ssim_signed", "lpips"}
    )
    for metric, row in one.items():
        for field in ("value", "low", "high"):
            close = pytest.approx(row[field], rel=1e-6, abs=1e-6)  # a root of a covariance that is nearly singular: 1e-15 becomes 1e-8
            assert many[metric][field] == close, (metric, field)
        assert many[metric]["protocol"] == row["protocol"] and many[metric]["count"] == row["count"]
    assert one["second"]["value"] == one["gfid"]["value"]


@pytest.fixture
def six_spaces(tmp_path, monkeypatch) -> Path:
    """A folder with a file for each of FDr6's networks, which are all the small classifier with features of their own size."""
    plain = load_extractor("shapes-cnn")

    def opened(name, file, device):
        times = 1 + SPACES.index(name)

        class Scaled(torch.nn.Module):
            def forward(self, images):
                return tuple(times * layer for layer in plain.network(images))

        return replace(plain, name=name, digest=f"{times:064x}", network=Scaled(), frechet=judges.row("features", name)["frechet"])

    monkeypatch.setattr(scores, "load_extractor", opened)
    for name in SPACES[1:]:
        (tmp_path / judges.row("features", name)["file"]).write_bytes(b"weights")
    return tmp_path


def ratio_of(inputs: dict[str, Path], out: Path, folder: Path, runtime: Runtime) -> list[dict]:
    """The scores of FDr6's stages."""
    slice_ = {**SLICE, "scores": {**SCORES, "extractor": "inception", "fdr6": str(folder)}}
    known = dict(inputs)
    for name, stage in (("references", scores.references), ("fdr6-references", scores.fdr6_references), ("ratio", scores.fdr6_generation)):
        known[name] = out / name
        if runtime.is_main:
            known[name].mkdir(parents=True)
        runtime.barrier()
        stage(slice_, known, known[name], runtime)
        runtime.barrier()
    for space in SPACES[1:]:
        assert sorted(path.name for path in (out / "fdr6-references" / space).iterdir()) == ["reference.json", "reference.safetensors"]
    return json.loads((out / "ratio" / "scores.json").read_text())


@pytest.mark.parametrize("world", [1, 2])
def test_fdr6_of_a_run_is_the_mean_of_its_six_ratios(tmp_path, inputs, six_spaces, world):
    def work():
        runtime = QUIET.start()
        ratio_of(inputs, tmp_path / "out", six_spaces, runtime)
        runtime.stop()

    if world == 1:
        ratio_of(inputs, tmp_path / "out", six_spaces, QUIET)
    else:
        assert in_ranks(world, work) == [0] * world
    found = {score["metric"]: score for score in json.loads((tmp_path / "out" / "ratio" / "scores.json").read_text())}
    facts = [judges.row("features", name) for name in SPACES]
    gfid = found["fd_convnextv2"]["value"] / 4  # features twice as large as the first space's
    assert "gfid" not in found and gfid > 0
    for times, space in list(enumerate(facts, 1))[1:]:  # N times as large features are N^2 times as far apart
        assert found[space["frechet"]]["value"] == pytest.approx(gfid * times**2, rel=1e-4)
    wanted = sum(gfid * times**2 / space["validation_fd"] for times, space in enumerate(facts, 1)) / 6
    assert found["fdr6"]["value"] == pytest.approx(wanted, rel=1e-4)
    assert found["fdr6"]["low"] < wanted < found["fdr6"]["high"] and found["fdr6"]["count"] == COUNT
    assert found["fdr6"]["protocol"]["sampling"]["steps"] == 5 and text(found["fdr6"]).startswith("fd-ratio-fdr6@")


def test_fdr6_takes_the_statistics_in_its_folder(tmp_path, inputs, six_spaces):
    np.savez(six_spaces / "mae-l.npz", mu=np.zeros(128), sigma=np.eye(128))
    found = {score["metric"]: score for score in ratio_of(inputs, tmp_path / "out", six_spaces, QUIET)}
    assert found["fd_mae"]["protocol"]["reference"] == "statistics" and found["fd_clip"]["protocol"]["reference"] == "train"


def tapped() -> Extractor:
    """The small classifier with an inner layer listened to, as Inception's is for sFID."""
    plain = load_extractor("shapes-cnn")
    layer = next(module for module in plain.network.modules() if isinstance(module, torch.nn.Conv2d))
    shape: list[int] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: shape.extend(output.shape))
    plain(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    handle.remove()
    return replace(plain, tap=Tap(layer, 1, shape[2] * shape[3]))


def sums_of(extractor: Extractor, images: np.ndarray, runtime: Runtime | None) -> dict[str, torch.Tensor]:
    """Everything one pass leaves, ten features kept, images in batches of 7."""
    found = extract(extractor, images, batch=7, keep=10, groups=10, runtime=runtime)
    parts = {"mean": found.moments.mean, "scatter": found.moments.scatter, "kept": found.kept, "logits": found.logits}
    whole = united(found.spatial)
    parts |= {"classes": found.classes.sums, "spatial": whole.mean, "spread": whole.scatter, "tenth": found.spatial[9].scatter}
    counts = [found.count, found.moments.count, whole.count, len(found.kept)]
    return {name: part.contiguous() for name, part in parts.items()} | {"counts": torch.tensor(counts)}


@pytest.mark.parametrize(("world", "count"), [(2, 53), (3, 13)])
def test_sums_and_kept_rows_of_any_number_of_ranks_are_those_of_one(tmp_path, inputs, world, count):
    images = np.load(inputs["samples"] / "samples.npy", mmap_mode="r")[:count]
    extractor = tapped()
    alone = sums_of(extractor, images, None)
    assert alone["counts"].tolist() == [count, count, count, 10] and alone["classes"][:, 0].sum() == count

    def work():
        runtime = QUIET.start()
        save_file(sums_of(extractor, images, runtime), tmp_path / f"rank-{runtime.rank}.safetensors")
        runtime.stop()

    assert in_ranks(world, work) == [0] * world
    for rank in range(world):
        found = load_file(tmp_path / f"rank-{rank}.safetensors")
        assert found.keys() == alone.keys() and found["counts"].equal(alone["counts"])
        for name, part in alone.items():
            torch.testing.assert_close(found[name].double(), part.double(), rtol=1e-12, atol=1e-12 * float(part.double().abs().max()))


def test_a_rank_that_fails_ends_all_of_them(tmp_path, inputs):
    images = np.load(inputs["samples"] / "samples.npy", mmap_mode="r")

    def work():
        runtime = QUIET.start()

        class Broken:
            def __len__(self):
                return 40

            def batch(self, indices):
                if runtime.rank == 1:
                    raise BadData("cannot be read")
                return torch.from_numpy(images[indices])

        extract(load_extractor("shapes-cnn"), Broken(), batch=7, runtime=runtime)

    assert in_ranks(2, work) == [SvgbenchError.exit_status, BadData.exit_status]


def test_every_rank_refuses_images_that_are_doubled(inputs):
    images = np.array(np.load(inputs["samples"] / "samples.npy")[:41])
    images[40] = images[3]

    def work():
        check_samples(images, None, 41, runtime=QUIET.start())

    assert in_ranks(2, work) == [BadData.exit_status] * 2


def test_a_named_reference_takes_the_place_of_the_training_images(tmp_path, inputs):
    scored(inputs, tmp_path / "own", QUIET)
    taken = load_file(tmp_path / "own" / "references" / "reference.safetensors")
    train = np.moveaxis(np.load(inputs["images"] / "train.images.npy"), 1, -1)
    statistics = {"mu": taken["mu"].numpy(), "sigma": taken["sigma"].numpy()}
    np.savez(tmp_path / "statistics.npz", **statistics)
    np.savez(tmp_path / "adm.npz", **statistics, arr_0=train[:40])
    np.savez(tmp_path / "set.npz", arr_0=train)
    scored(inputs, tmp_path / "bare", QUIET, reference=str(tmp_path / "statistics.npz"))
    scored(inputs, tmp_path / "adm", QUIET, reference=str(tmp_path / "adm.npz"))
    scored(inputs, tmp_path / "set", QUIET, reference=str(tmp_path / "set.npz"))
    own, bare, given, adm = (read(tmp_path / name) for name in ("own", "bare", "set", "adm"))
    assert adm["gfid"] == {**bare["gfid"], "protocol": adm["gfid"]["protocol"]} and "/statistics@" in text(adm["gfid"])
    assert "/images-40@" in text(adm["recall"]) and "x40/" in text(adm["precision"])  # as eval scores it
    assert own["gfid"]["value"] == pytest.approx(bare["gfid"]["value"], rel=1e-9) == pytest.approx(given["gfid"]["value"], rel=1e-9)
    assert "/train-263@" in text(own["gfid"]) and "/images-263@" in text(given["gfid"])
    assert "/statistics@" in text(bare["gfid"]) and "kid" not in bare and "kid" in given
    assert "/train-263@" in text(bare["second"])  # statistics are of the first extractor
    assert "/images-263@" in text(given["second"])
    assert all(rows["rfid"] == own["rfid"] for rows in (bare, given))
    with pytest.raises(BadInput, match="images of 16 x 16 px, those to be scored are 32 x 32"):
        np.savez(tmp_path / "small.npz", arr_0=np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8))
        scored(inputs, tmp_path / "small", QUIET, reference=str(tmp_path / "small.npz"))


def test_samples_that_hold_nan_are_refused_before_they_are_rounded(tmp_path, inputs):
    broken = {**inputs, "samples": tmp_path, "references": tmp_path}
    images = np.load(inputs["samples"] / "samples.npy") / np.float32(255)
    images[7, 1, 2, 3] = np.nan
    np.save(tmp_path / "samples.npy", images)
    for name in ("labels.npy", "manifest.json"):
        (tmp_path / name).write_bytes((inputs["samples"] / name).read_bytes())
    with pytest.raises(NumericalError, match="the images hold NaN or infinity"):
        scores.generation(SLICE, broken, tmp_path, QUIET)
    np.save(tmp_path / "samples.npy", np.nan_to_num(images))
    with pytest.raises(BadData, match="round them first"):
        scores.generation(SLICE, broken, tmp_path, QUIET)
