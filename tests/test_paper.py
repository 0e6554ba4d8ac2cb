"""The paper's protocol from end to end, on folders shaped like ImageNet, ADE20K and NYUv2: ``--preset paper`` with sizes turned down by
``--set``. The encoder and Inception have the released shapes and random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from commands import svgbench
from PIL import Image
from random_inception import write_inception
from safetensors.torch import save_file
from scenes import ade20k, nyu

pytestmark = pytest.mark.slow
SMALL = (
    "data.resolution=64", "autoencoder.training={total_images: 16, batch: 8, checkpoint_images: 16}",
    "autoencoder.decoder={base: 8, multipliers: [1, 1, 1, 1, 2], blocks: 1}",
    "autoencoder.residual={width: 32, layers: 1, heads: 2, mlp: 64}",
    "autoencoder.loss={network: shapes-lpips, adversarial_start_images: 8}", "diffusion.size=tiny",
    "diffusion.training={total_images: 32, batch: 16}", "sampling={count: 24, steps: [2], guidance: [4.0]}",
    "scores.neighbours=2", "scores.resamples=0", "scores.perceptual=shapes-lpips",
    "scores.segmentation.head.classes=4", "scores.paper.linear={epochs: 1, batch: 16}",
    "scores.paper.fpn={crop: 32, window_stride: 21, width: 8, total_images: 32, batch: 8, lr_warmup_images: 8}",
    "scores.paper.deconv={crop: 48, window_stride: 16, filters: [4, 4, 4], width: 4, epochs: 2, batch: 4}",
)  # fmt: skip


def imagenet(root: Path) -> Path:
    """A folder as ImageNet's archive unpacks, validation images sorted into their classes, sizes of all kinds, some grey."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        for number, name in enumerate(("n01440764", "n01443537", "n01484850")):
            folder = root / "ILSVRC" / "Data" / "CLS-LOC" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                height, width = generator.integers(60, 140, 2)
                rows = generator.integers(0, 120, (height, width, 3)) + np.array([120, 60, 0]) * (number == np.arange(3))
                picture = Image.fromarray(rows.astype(np.uint8))
                (picture.convert("L") if i == 1 else picture).save(folder / f"{name}_{i}.JPEG", quality=90)
    return root


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> list[str]:
    """The words of the command."""
    place = tmp_path_factory.mktemp("paper")
    torch.manual_seed(0)
    save_file(timm.create_model("vit_small_plus_patch16_dinov3").state_dict(), place / "dinov3.safetensors")
    pictures = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    inception = write_inception(place / "inception.pth", pictures)
    spread = np.random.default_rng(0).normal(size=(2048, 64))
    np.savez(place / "imagenet64.npz", mu=np.full(2048, 0.4), sigma=spread @ spread.T / 64)
    sets = (
        *SMALL, f"scores.extractor_weights={inception}", f"scores.reference={place / 'imagenet64.npz'}",
        f"scores.segmentation.source={ade20k(place / 'ade')}", f"scores.depth.source={nyu(place / 'nyu')}",
    )  # fmt: skip
    return [
        *("run", "--preset", "paper", "--encoder", "dinov3", "--weights", str(place / "dinov3.safetensors")),
        *("--data", str(imagenet(place / "imagenet")), "--threads", "1", *(word for one in sets for word in ("--set", one))),
    ]


def test_the_paper_s_protocol_runs_from_folders_to_every_number(asked, tmp_path):
    out = tmp_path / "runs"
    done = svgbench(*asked, "--out", str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    (place,) = out.glob("*/scores.json")
    rows = json.loads(place.read_text())
    found = {row["metric"] for row in rows}
    assert {"gfid", "is", "rfid", "psnr", "ssim", "lpips", "probe_top1", "probe_top5"} <= found
    assert {"miou", "macc", "depth_rmse", "depth_arel"} <= found and not {"knn_top1", "logreg_top1"} & found
    measures = {row["protocol_fields"]["measure"] for row in rows if row["metric"] in ("probe_top1", "miou", "depth_rmse")}
    assert measures == {"paper-linear-crops", "paper-seg-fpn-slide", "paper-depth-deconv-slide"}
    assert not {"kid", "precision", "recall"} & found  # bare statistics do not give them
    gfid = next(row for row in rows if row["metric"] == "gfid")
    fields = gfid["protocol_fields"]
    assert (fields["judge"], fields["count"], fields["balance"], fields["images"]) == ("inception", 24, "balanced", "samples")
    assert len(fields["judge_digest"]) == len(fields["reference_digest"]) == 64 and fields["rounding"] == "uint8-round"
    assert (fields["sampling"]["sampler"], fields["sampling"]["steps"], fields["sampling"]["guidance"]) == ("euler", 2, 4.0)
    dense = {(row["metric"], row["detail"]["latents"]) for row in rows if row["metric"] in ("miou", "depth_rmse")}
    assert dense == {(metric, latents) for metric in ("miou", "depth_rmse") for latents in ("features", "residual", "both")}
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows if row["low"] is not None)

    made = {path: path.stat().st_mtime_ns for path in out.glob("store/*/*/manifest.json")}
    again = svgbench(*asked, "--out", str(out))
    assert again.returncode == 0 and again.stdout == done.stdout
    assert {path: path.stat().st_mtime_ns for path in out.glob("store/*/*/manifest.json")} == made
