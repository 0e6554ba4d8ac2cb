"""What is refused before a number is printed, how protocols are named, how intervals are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from svgbench.config.scoring import Probe
from svgbench.errors import BadData, BadInput, NumericalError
from svgbench.metrics.protocol import ImageGroup, Judge, protocol
from svgbench.metrics.resampling import Resampling
from svgbench.metrics.samples import check_samples, to_uint8


def good(count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, 3, 16, 16), dtype=np.uint8), np.arange(count) % 4


def test_a_whole_set_passes_as_array_and_as_tensor():
    images, labels = good()
    check_samples(images, labels, 12, size=(16, 16), classes=4)
    check_samples(torch.from_numpy(images), torch.from_numpy(labels), 12, size=(16, 16), classes=4)


@pytest.mark.parametrize("count, words", [(13, "1 of 13 images are missing"), (11, "1 of 11 images are too many")])
def test_a_wrong_count_is_refused(count, words):
    with pytest.raises(BadData, match=words):
        check_samples(*good(), count)


def test_one_doubled_image_is_refused_and_named():
    images, labels = good()
    images[7] = images[2]
    with pytest.raises(BadData, match=r"1 of 12 images are doubled .first: 7 equals 2.*draw the set again, or leave the copies out\."):
        check_samples(images, labels, 12)
    check_samples(images, labels, 12, distinct=False)


def test_flat_images_of_a_collapsed_model_are_scored():
    images, labels = good()
    images[3:9] = 0
    check_samples(images, labels, 12)


def test_a_wrong_type_shape_size_or_label_is_refused():
    images, labels = good()
    for broken, words in (
        ((images / 255.0, labels), "float64"),
        ((images.transpose(0, 2, 3, 1), labels), r"\[12, 16, 16, 3\]"),
        ((images[:, :, :8, :8], labels), "8 x 8 px, the reference 16 x 16"),
        ((images, labels[:-1]), "12 images need 12"),
        ((images, labels + 1), "outside 0..3"),
        ((images, labels - 1), "outside 0..3"),
        ((images, labels.astype(float)), "whole numbers"),
    ):
        with pytest.raises(BadData, match=words):
            check_samples(*broken, 12, size=(16, 16), classes=4)


def test_rounding_takes_the_nearest_level_and_refuses_nan():
    x = torch.tensor([-0.2, 0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.0, 3.0])
    assert to_uint8(x).tolist() == [0, 0, 0, 1, 255, 255, 255]
    levels = torch.arange(256, dtype=torch.uint8)
    assert to_uint8(levels.float() / 255).equal(levels)
    assert to_uint8(torch.tensor([0.5, 1.5, 2.5, 126.5]) / 255).tolist() == [0, 2, 2, 126]  # 127.5 x + 128, cut off, says 1, 2, 3, 127
    with pytest.raises(NumericalError):
        to_uint8(torch.tensor([float("nan")]))


def test_protocols_differ_when_anything_that_changes_the_number_differs():
    base = {"images": ImageGroup(name="balanced", count=2000), "reference": ImageGroup(name="train", count=10, digest="a" * 64)}
    made = [
        protocol("fd", judge=Judge(name="n", digest="b" * 64), **base),
        protocol("kd", judge=Judge(name="n", digest="b" * 64), **base),
        protocol("fd", judge=Judge(name="n", digest="c" * 64), **base),
        protocol("fd", judge=Judge(name="m", digest="b" * 64), **base),
        protocol("fd", judge=Judge(name="n", digest="b" * 64), **base, details=("uint8-floor",)),
        protocol("fd", judge=Judge(name="n", digest="b" * 64), **{**base, "images": ImageGroup(name="random", count=2000)}),
        protocol("fd", judge=Judge(name="n", digest="b" * 64), **{**base, "images": ImageGroup(name="balanced", count=2001)}),
        protocol(
            "fd", judge=Judge(name="n", digest="b" * 64), **{**base, "reference": ImageGroup(name="train", count=10, digest="d" * 64)}
        ),
        protocol("fd", judge=Judge(name="n", digest="b" * 64), **base, settings=Probe()),
        protocol("fd", judge=Judge(name="n", digest="b" * 64), **base, settings=Probe(epochs=2)),
    ]
    names = [one.text for one in made]
    assert len(set(names)) == len(names)
    assert made[-2].differs(made[-1]) == ["chosen.epochs (30, 2)"]
    assert names[0] == "fd-n@bbbbbbbb/train-10@aaaaaaaa/balanced-2000/v1"


def test_a_part_that_holds_the_separator_or_lacks_a_digest_is_refused():
    images = ImageGroup(name="balanced", count=5)
    with pytest.raises(BadInput, match="part of a protocol"):
        protocol("fd", images=images, details=("a/b",))
    with pytest.raises(BadInput, match="no digest"):
        protocol("fd", images=images, judge=Judge(name="n", digest=""))
    with pytest.raises(BadInput, match="no digest"):
        protocol("fd", images=images, reference=ImageGroup(name="train", count=5))


def test_resamples_count_every_place_and_repeat_by_seed():
    counts = Resampling(resamples=30, seed=1).counts(200)
    assert counts.shape == (30, 200) and (counts.sum(1) == 200).all()
    assert counts.equal(Resampling(resamples=30, seed=1).counts(200))
    assert not counts.equal(Resampling(resamples=30, seed=2).counts(200))
    assert (counts == 0).double().mean().item() == pytest.approx(np.exp(-1), abs=0.02)


def test_interval_of_a_mean_is_the_textbooks():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    low, high = Resampling(resamples=400).of_mean(values)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std().item() / 20, rel=0.15)
    assert (high + low) / 2 == pytest.approx(values.mean().item())
