"""The drawn scenes: classes are told by light and dark, not by hue; splits share nothing; masks and depth are those of the objects."""

from __future__ import annotations

import numpy as np

from svgbench.images import scenes

SIDE = 64


def _draw(indices, **changes):
    return scenes.draw(indices, **{"seed": 0, "resolution": SIDE, "split": "train", **changes})


def _chroma(images):
    """The two chroma axes of YIQ, [..., H, W] each, of RGB uint8 [..., 3, H, W]."""
    red, green, blue = np.moveaxis(images.astype(float) / 255, -3, 0)
    return 0.5959 * red - 0.2746 * green - 0.3213 * blue, 0.2115 * red - 0.5227 * green + 0.3112 * blue


def test_an_image_is_a_function_of_seed_split_and_index_alone():
    together, alone = _draw(np.arange(600), captions=True), _draw([555], captions=True)
    for one, all_ in zip(alone[:4], together[:4], strict=True):
        assert np.array_equal(one[0], all_[555])
    assert alone.captions == [together.captions[555]]


def test_no_split_and_no_seed_shares_an_image():
    drawn = [_draw(np.arange(480), split=split, seed=seed).images for split in scenes.SPLITS for seed in (0, 1)]
    whole = np.concatenate(drawn).reshape(len(drawn) * 480, -1)
    assert len(np.unique(whole, axis=0)) == len(whole)


def test_classes_alternate_and_there_are_twenty_or_more():
    assert len(set(scenes.CLASSES)) == len(scenes.CLASSES) >= 20
    assert (np.bincount(_draw(np.arange(5 * len(scenes.CLASSES))).labels) == 5).all()


def test_an_image_holds_one_to_three_objects_of_its_class_alone():
    drawn = _draw(np.arange(720), captions=True)
    for label, mask in zip(drawn.labels, drawn.masks, strict=True):
        assert set(np.unique(mask)) == {0, label + 1}
    counts = [caption.split()[0] for caption in drawn.captions]
    assert all(0.28 < counts.count(word) / 720 < 0.39 for word in scenes.COUNTS)
    share = (drawn.masks > 0).mean((1, 2))
    assert share.min() > 0.02 and share.max() < 0.65


def test_hue_does_not_tell_the_class():
    """The mean chroma inside the objects differs between classes by no more than chance."""
    drawn = _draw(np.arange(2400))
    inside = drawn.masks > 0
    for axis in _chroma(drawn.images):
        means = (axis * inside).sum((1, 2)) / inside.sum((1, 2))
        per_class = np.array([means[drawn.labels == label].mean() for label in range(len(scenes.CLASSES))])
        chance = means.std() / np.sqrt(100)
        assert 0.6 * chance < per_class.std() < 1.6 * chance
        assert means.std() > 0.05  # there is colour


def test_light_and_dark_tell_the_pattern():
    """At the centre of a disc a light one is light, a dark one is dark."""
    drawn = _draw(np.arange(0, 4800, 24).repeat(2) + np.tile([0, 1], 200))
    weights = np.array([0.299, 0.587, 0.114])[:, None, None]
    light = (drawn.images * weights).sum(1)
    deepest = [light[i][_eroded(drawn.masks[i] > 0)].mean() for i in range(len(light))]
    assert np.mean(deepest[::2]) > 180 and np.mean(deepest[1::2]) < 75


def _eroded(inside):
    """The pixels of a mask whose neighbourhood of 9 x 9 lies inside it; all of it, if there is none."""
    core = inside.copy()
    for axis in (0, 1):
        for shift in range(-4, 5):
            core &= np.roll(inside, shift, axis)
    return core if core.any() else inside


def test_depth_is_nearer_on_objects_and_towards_the_lower_edge():
    drawn = _draw(np.arange(480))
    inside = drawn.masks > 0
    assert drawn.depth.dtype == np.float32 and drawn.depth.min() > 0 and drawn.depth.max() <= 1
    assert drawn.depth[inside].max() <= 0.7 + 1e-6 < drawn.depth[~inside].mean()
    background = np.where(inside, np.nan, drawn.depth)
    assert np.nanmean(background[:, -4:]) < np.nanmean(background[:, :4]) - 0.2


def test_captions_have_one_length_and_name_number_pattern_colour_and_shape():
    drawn = _draw(np.arange(240), captions=True)
    assert {len(caption.split()) for caption in drawn.captions} == {6}
    for label, caption in zip(drawn.labels, drawn.captions, strict=True):
        number, pattern, hue, shape, _, ground = caption.split()
        assert f"{pattern} {shape}" == scenes.CLASSES[label] and number in scenes.COUNTS and {hue, ground} <= set(scenes.HUES)


def test_a_larger_drawing_is_the_same_picture():
    small, large = _draw(np.arange(48)), _draw(np.arange(48), resolution=4 * SIDE)
    shrunk = large.images.reshape(48, 3, SIDE, 4, SIDE, 4).mean((3, 5))
    assert np.abs(shrunk - small.images).mean() < 6
    assert ((large.masks[:, 2::4, 2::4] > 0) == (small.masks > 0)).mean() > 0.97
