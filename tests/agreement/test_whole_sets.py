"""The same image files through ``svgbench eval``'s scores and through other people's whole pipelines.

Bounds. Frechet: 1e-5, for torch-fidelity keeps features and means in float32 and takes eigenvalues of an asymmetric product, torchmetrics
the same product in float64; 1e-4 on Inception, where 12 images make a product of 2048 singular. Inception score: 1e-5, features in float32
there. Kernel distance: 1e-4, a small difference of float32 kernels there, with one subset of all images, the only choice without a random
number. Precision and recall: one image of a set, whose distance may tie with its ball's radius.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from measured import agrees
from PIL import Image
from random_inception import write_inception

from svgbench.images import shapes
from svgbench.metrics.elsewhere import elsewhere_scores
from svgbench.metrics.features import load_extractor
from svgbench.metrics.image_sets import open_set
from svgbench.metrics.judges import weights_file
from svgbench.metrics.resampling import Resampling

COUNT = 150
FIDELITY = "torch-fidelity calculate_metrics"
QUICK = Resampling(resamples=0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Two folders of as many PNGs: drawn shapes, and others with a colour cast."""
    places = []
    for name, split, cast in (("given", "val", 40), ("real", "train", 0)):
        place = tmp_path_factory.mktemp("sets") / name
        place.mkdir()
        drawn = shapes.draw(range(COUNT), seed=0, resolution=32, split=split).images.astype(np.int64)
        drawn[:, 0] += cast
        for number, image in enumerate(drawn.clip(0, 255).astype(np.uint8)):
            Image.fromarray(np.moveaxis(image, 0, -1)).save(place / f"{number:03d}.png")
        places.append(place)
    return places[0], places[1]


def found(given: Path, real: Path, extractor) -> dict[str, float]:
    return {score.metric: score.value for score in elsewhere_scores(given, real, extractor, resampling=QUICK)}


def expected(given: Path, real: Path, extractor: str, weights: Path, count: int, **more) -> dict[str, float]:
    """torch-fidelity's own entry point on the same folders."""
    import torch_fidelity

    settings = {"isc": True, "kid": True, "prc": True, "kid_subsets": 1, "kid_subset_size": count, "prc_neighborhood": 3}
    return torch_fidelity.calculate_metrics(
        input1=str(given), input2=str(real), feature_extractor=extractor, feature_extractor_weights_path=str(weights),
        cuda=False, cache=False, verbose=False, batch_size=32, **{**settings, **more},
    )  # fmt: skip


def test_a_folder_on_the_shipped_network_scores_as_by_torch_fidelity(folders):
    ours = found(*folders, load_extractor("shapes-cnn"))  # this also registers the network with torch-fidelity
    theirs = expected(*folders, "svgbench-shapes-cnn", weights_file("features", "shapes-cnn"), COUNT, fid=True)
    agrees("gfid", ours["gfid"], theirs["frechet_inception_distance"], against=FIDELITY, rel=1e-5)
    agrees("is", ours["is"], theirs["inception_score_mean"], against=FIDELITY, rel=1e-5)
    agrees("kid", ours["kid"], theirs["kernel_inception_distance_mean"], against=FIDELITY, rel=1e-4)
    agrees("precision", ours["precision"], theirs["precision"], against=FIDELITY, off=1.01 / COUNT)
    agrees("recall", ours["recall"], theirs["recall"], against=FIDELITY, off=1.01 / COUNT)


def test_a_folder_on_the_shipped_network_has_torchmetrics_frechet_distance(folders):
    from torchmetrics.image.fid import FrechetInceptionDistance

    extractor = load_extractor("shapes-cnn")

    class Features(torch.nn.Module):
        """The features alone, under the name by which torchmetrics asks for their count."""

        num_features = extractor.dim

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return extractor(images)[0]

    measure = FrechetInceptionDistance(feature=Features())
    for place, real in zip(folders, (False, True), strict=True):
        measure.update(open_set(place).batch(range(COUNT)), real=real)
    agrees("gfid", found(*folders, extractor)["gfid"], measure.compute().item(), against="torchmetrics FrechetInceptionDistance", rel=1e-5)


@pytest.fixture(scope="module")
def inception(tmp_path_factory, folders) -> Path:
    return write_inception(tmp_path_factory.mktemp("weights") / "inception.pth", open_set(folders[1]).batch(range(4)))


def test_a_folder_on_inception_of_random_weights_scores_as_by_torch_fidelity(folders, inception, tmp_path):
    """The Frechet distance only where the table is made: torch-fidelity's eigenvalues of a product of 2048 take half a minute."""
    count, places, whole = 12, [], bool(os.environ.get("SVGBENCH_AGREEMENT"))
    for place in folders:
        (tmp_path / place.name).mkdir()
        for number in range(count):
            (tmp_path / place.name / f"{number}.png").write_bytes((place / f"{number:03d}.png").read_bytes())
        places.append(tmp_path / place.name)
    ours = found(*places, load_extractor("inception", inception))
    theirs = expected(*places, "inception-v3-compat", inception, count, fid=whole)
    if whole:
        agrees("gfid", ours["gfid"], theirs["frechet_inception_distance"], against=FIDELITY, rel=1e-4)
    agrees("is", ours["is"], theirs["inception_score_mean"], against=FIDELITY, rel=1e-5)
    agrees("kid", ours["kid"], theirs["kernel_inception_distance_mean"], against=FIDELITY, rel=1e-4)
    agrees("precision", ours["precision"], theirs["precision"], against=FIDELITY, off=1.01 / count)
    agrees("recall", ours["recall"], theirs["recall"], against=FIDELITY, off=1.01 / count)
