"""Crops of the paper's heads: torchvision's random resized crop, and GLPDepth's depth augmentation, as functions of the position."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as theirs

from svgbench.images import paper_crops
from svgbench.images.crops import COLOUR_DRAWS, uniform_draws
from svgbench.images.dense_sets import Sample

IMAGE = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)


@pytest.mark.parametrize("position", range(6))
def test_a_crop_is_torchvisions_of_the_same_box(position):
    numbers = uniform_draws(0, position)
    crop = paper_crops.resized_crop(IMAGE, 7, numbers, area=(0.08, 1.0))
    left, top, width, height = paper_crops.box_of(64, numbers[1:], (0.08, 1.0))
    picture = Image.fromarray(IMAGE.transpose(1, 2, 0))
    wanted = np.asarray(theirs.resized_crop(picture, top, left, height, width, [64, 64], InterpolationMode.BILINEAR))
    assert np.array_equal(crop.image, wanted[:, ::-1] if numbers[0] < 0.5 else wanted) and crop.target == 7


def test_boxes_are_distributed_as_torchvisions():
    ours = np.array([paper_crops.box_of(256, uniform_draws(3, position)[1:], (0.08, 1.0)) for position in range(2000)], np.float64)
    torch.manual_seed(0)
    blank = torch.zeros(3, 256, 256)
    other = np.array([RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)], np.float64)[:, [1, 0, 3, 2]]
    for measure in (
        lambda b: b[:, 2] * b[:, 3] / 256**2,
        lambda b: np.log(b[:, 2] / b[:, 3]),
        lambda b: b[:, 0] / 256,
        lambda b: b[:, 1] / 256,
    ):
        one, two = measure(ours), measure(other)
        assert abs(one.mean() - two.mean()) < 0.03 and abs(one.std() - two.std()) < 0.03
    assert (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= 256).all()


def test_images_and_labels_are_stacked_and_a_rank_may_have_none():
    made = [paper_crops.resized_crop(IMAGE, label, uniform_draws(0, label), area=(1.0, 1.0)) for label in (3, 5)]
    batch = paper_crops.labelled_batch(made, 64)
    assert batch["labels"].tolist() == [3, 5] and batch["pixels"].shape == (2, 64, 64, 3) and batch["pixels"].dtype == torch.uint8
    assert paper_crops.labelled_batch([], 64)["pixels"].shape == (0, 64, 64, 3)


@pytest.mark.parametrize("move", [(0.1, 0.05), (-0.1, -0.07), (0.9, 0.9)])
def test_saturation_and_value_move_as_in_hsv(move):
    image = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0))
    found = paper_crops._shifted(image, saturation=move[0], value=move[1])
    for place in np.ndindex(5, 5):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[(slice(None), *place)].tolist())
        wanted = colorsys.hsv_to_rgb(hue, min(max(saturation + move[0], 0), 1), min(max(value + move[1], 0), 1))
        torch.testing.assert_close(found[(slice(None), *place)], torch.tensor(wanted), rtol=1e-4, atol=1e-5)


def test_colours_by_hand():
    image, off = torch.full((3, 2, 2), 0.5), np.full(COLOUR_DRAWS, 0.5, np.float32)
    assert torch.equal(paper_crops.depth_colours(image, off), image)
    bright, gamma = off.copy(), off.copy()
    bright[[0, 3, 4]] = (0.0, 1.0, 0.75)  # contrast 1.2, brightness + 0.1
    gamma[[1, 5]] = (0.0, 1.0)
    assert paper_crops.depth_colours(image, bright).unique().tolist() == pytest.approx([0.7])
    assert paper_crops.depth_colours(image, gamma).unique().tolist() == pytest.approx([0.5**1.2])


def test_a_cut_shows_depth_in_a_band_and_windows_keep_pixel_and_depth_together():
    depth = np.full((48, 64), 3.001, np.float32)
    sample, found = Sample(Image.new("RGB", (64, 48), (7, 7, 7)), depth), set()
    for position in range(60):
        numbers = uniform_draws(0, position)
        crop = paper_crops.cut_depth_crop(sample, numbers, side=48)
        assert crop.image.shape == (48, 48, 3) and crop.target.shape == (48, 48)
        values = set(np.unique(crop.image).tolist())
        assert values <= {7, 3001 % 256} and (numbers[3] < 0.25 or values == {7})
        found |= values
    assert found == {7, 3001 % 256}
    marked = np.tile(np.arange(64, dtype=np.uint8), (48, 1))
    pair = Sample(Image.fromarray(np.stack([marked] * 3, -1)), marked.astype(np.float32) + 1)
    crop = paper_crops.cut_depth_crop(pair, np.where(np.arange(33) == 3, 0.9, uniform_draws(0, 1)), side=32)
    assert np.array_equal(crop.image[..., 0] + 1.0, crop.target)


def test_an_image_smaller_than_the_window_is_enlarged():
    crop = paper_crops.cut_depth_crop(Sample(Image.new("RGB", (40, 30)), np.ones((30, 40), np.float32)), uniform_draws(0, 0), side=48)
    assert crop.image.shape == (48, 48, 3) and crop.target.shape == (48, 48)
