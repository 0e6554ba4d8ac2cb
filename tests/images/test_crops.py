"""Crops: functions of their position alone, image and target cut alike, filled up where they reach beyond the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import COLOURS, ade20k

from svgbench.images import crops
from svgbench.images.dense_sets import Sample, open_set, read_labelled
from svgbench.machine.order import Order
from svgbench.machine.runtime import Runtime

DEVICE = torch.device("cpu")


def sample(height=60, width=80) -> Sample:
    """Colour and class agree: the left half is class 0, the right one class 1."""
    classes = np.repeat((np.arange(width) >= width // 2)[None], height, 0).astype(np.uint8)
    return Sample(Image.fromarray(COLOURS[classes]), classes)


def agreement(crop: crops.Crop) -> float:
    """Share of pixels whose colour is that of their target."""
    nearest = np.abs(crop.image[:, :, None].astype(int) - COLOURS[:2].astype(int)).sum(-1).argmin(-1)
    return float((nearest == crop.target).mean())


@pytest.mark.parametrize("position", range(8))
def test_image_and_mask_are_cut_mirrored_and_scaled_alike(position):
    crop = crops.segmentation_crop(sample(), crops.uniform_draws(0, position), side=48, scales=(0.5, 2.0))
    assert max(crop.target.shape) <= 48 and crop.image.shape[:2] == crop.target.shape
    assert agreement(crop) > 0.97
    assert len(np.unique(crop.target)) == 2  # ten tries find both


def test_crops_differ_between_positions_and_repeat_at_one():
    made = [crops.segmentation_crop(sample(), crops.uniform_draws(5, position), side=32, scales=(0.5, 2.0)) for position in (3, 3, 4)]
    assert np.array_equal(made[0].image, made[1].image) and np.array_equal(made[0].target, made[1].target)
    assert made[0].image.shape != made[2].image.shape or not np.array_equal(made[0].image, made[2].image)
    shapes = {crops.segmentation_crop(sample(), crops.uniform_draws(0, p), side=32, scales=(0.5, 0.9)).target.shape for p in range(8)}
    assert len(shapes) > 3  # the scale moves


SIZES = [((683, 512), 256, (342, 256)), ((300, 400), 512, (512, 683)), ((64, 64), 32, (32, 32))]


@pytest.mark.parametrize(("size", "short", "wanted"), SIZES)
def test_the_short_side_is_what_is_asked_for(size, short, wanted):
    assert crops.scaled(size, short) == wanted


def test_depth_crops_lose_the_border_and_keep_their_depths():
    depth = np.full((480, 640), 2.5, np.float32)
    depth[:44] = depth[473:] = 9.0
    depth[:, :42] = depth[:, 609:] = 9.0
    made = [
        crops.depth_crop(Sample(Image.new("RGB", (640, 480)), depth), crops.uniform_draws(0, position), size=(416, 544), border=True)
        for position in range(4)
    ]
    assert {crop.target.shape for crop in made} == {(416, 544)}
    assert all(set(np.unique(crop.target)) <= {0.0, 2.5} for crop in made)  # 0: tilted in from outside, unknown
    bare = crops.depth_crop(Sample(Image.new("RGB", (640, 480)), depth), crops.uniform_draws(0, 0), size=(480, 640), border=False)
    assert bare.target.shape == (480, 640) and (bare.target == 9.0).any()


def test_small_crops_are_filled_up_with_the_mean_colour_and_ignored_targets():
    crop = crops.Crop(np.zeros((4, 6, 3), np.uint8), np.ones((4, 6), np.uint8), np.full(crops.COLOUR_DRAWS, 0.9, np.float32))
    made = crops.padded([crop], (8, 8), 255)
    targets, images = made["targets"], crops.augmented(made["pixels"], made["crops"], crops.photometric_distortion)
    assert images.shape == (1, 3, 8, 8) and targets.dtype == torch.uint8
    assert (targets[0, :4, :6] == 1).all() and (targets[0, 4:] == 255).all() and (targets[0, :, 6:] == 255).all()
    assert not images[0, :, :4, :6].any()
    assert torch.allclose(images[0, :, 4:, 6:], torch.tensor(crops.FILL_COLOUR)[:, None, None].expand(3, 4, 2))


@pytest.mark.parametrize("change", [crops.photometric_distortion, crops.colour_jitter])
def test_colours_change_within_bounds_by_their_draws_alone(change):
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    rows = [crops.uniform_draws(0, position)[-crops.COLOUR_DRAWS :] for position in range(12)]
    made = [change(image, row) for row in rows]
    assert all(x.min() >= 0 and x.max() <= 1 for x in made)
    assert torch.equal(made[0], change(image, rows[0]))
    assert len({x.sum().item() for x in made}) > 4  # most are changed, each otherwise
    assert torch.equal(change(image, np.full(crops.COLOUR_DRAWS, 0.9, np.float32)), image)


def test_crops_read_ahead_by_any_number_of_threads_are_the_same(tmp_path):
    found = open_set("segmentation", str(ade20k(tmp_path)))

    def read(index, position):
        sample = read_labelled(found.root, found.training[index], 4)
        return crops.segmentation_crop(sample, crops.uniform_draws(0, position), side=24, scales=(0.5, 2.0))

    order, results = Order(len(found.training), seed=3), []
    for threads in (1, 3):
        runtime = Runtime(device="cpu", workers=threads, quiet=True)
        with crops.CropLoader(read, len(found.training), seed=3, runtime=runtime) as ahead:
            batches = [ahead(order.batch(start, 4)) for start in (0, 4, 8, 20)]  # the last is not the one that was read ahead
        results.append([crop for batch in batches for crop in batch])
    positions = [*range(12), *range(20, 24)]
    results.append([read(int(index), position) for index, position in zip(order.images(np.array(positions)), positions, strict=True)])
    for crops_ in zip(*results, strict=True):
        assert all(np.array_equal(crops_[0].image, one.image) and np.array_equal(crops_[0].target, one.target) for one in crops_[1:])
