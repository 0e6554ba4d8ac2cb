"""The drawn images: functions of position, balanced, masked, captioned, drawn alike at any size."""

from __future__ import annotations

import hashlib
import time

import numpy as np
import pytest

from svgbench.errors import BadData
from svgbench.images import scenes, shapes


def _draw(indices, **changes):
    return shapes.draw(indices, **{"seed": 0, "resolution": 32, "split": "train", **changes})


def test_an_image_is_a_function_of_seed_split_and_index_alone():
    together = _draw(np.arange(700), captions=True)
    alone = _draw([613], captions=True)
    assert np.array_equal(alone.images[0], together.images[613])
    assert np.array_equal(alone.masks[0], together.masks[613])
    assert alone.captions == [together.captions[613]]
    backwards = _draw([613, 5, 613])
    assert np.array_equal(backwards.images[0], backwards.images[2])
    assert np.array_equal(backwards.images[1], together.images[5])


def test_other_seed_other_split_and_other_index_give_other_images():
    first = _draw(np.arange(50)).images
    assert not any(np.array_equal(a, b) for a, b in zip(first, _draw(np.arange(50), seed=1).images, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, _draw(np.arange(50), split="val").images, strict=True))
    assert len(np.unique(_draw(np.arange(2000)).images.reshape(2000, -1), axis=0)) == 2000


def test_shapes_and_types_are_those_of_the_store():
    drawn = _draw(np.arange(3), resolution=48)
    assert (drawn.images.shape, drawn.images.dtype) == ((3, 3, 48, 48), np.uint8)
    assert (drawn.labels.shape, drawn.labels.dtype) == ((3,), np.int64)
    assert (drawn.masks.shape, drawn.masks.dtype) == ((3, 48, 48), np.uint8)
    assert drawn.captions is None


def test_labels_are_balanced_and_there_are_ten_classes_or_more():
    assert len(shapes.CLASSES) >= 10 and len(set(shapes.CLASSES)) == len(shapes.CLASSES)
    counts = np.bincount(_draw(np.arange(40 * len(shapes.CLASSES))).labels)
    assert (counts == 40).all()


def test_masks_hold_the_class_on_the_object_and_zero_elsewhere():
    drawn = _draw(np.arange(400))
    for label, mask in zip(drawn.labels, drawn.masks, strict=True):
        assert set(np.unique(mask)) == {0, label + 1}
    share = (drawn.masks > 0).mean((1, 2))
    assert share.min() > 0.01 and share.max() < 0.5


def test_the_mask_marks_the_pixels_that_differ_from_the_background():
    """Inside the mask the class's palette shows: pixels of discs, which wear red and white, are redder than their background on average."""
    drawn = _draw(np.arange(0, 4000, 10))
    assert (drawn.labels == 0).all()
    images, inside = drawn.images.astype(float), drawn.masks > 0
    red = images[:, 0] - images[:, 2]
    assert red[inside].mean() > red[~inside].mean() + 30


def test_a_larger_drawing_is_the_same_picture():
    small, large = _draw(np.arange(60), resolution=32), _draw(np.arange(60), resolution=128)
    shrunk = large.images.reshape(60, 3, 32, 4, 32, 4).mean((3, 5))
    assert np.abs(shrunk - small.images).mean() < 6
    agree = ((large.masks[:, 2::4, 2::4] > 0) == (small.masks > 0)).mean()
    assert agree > 0.97


def test_edges_are_antialiased():
    """The coverage by signed distance agrees with the share of a pixel's area that is inside, found by drawing at eight times the size."""
    fine = _draw(np.arange(60), resolution=256).masks > 0
    area = fine.reshape(60, 32, 8, 32, 8).mean((2, 4))
    coarse = _draw(np.arange(60)).masks > 0
    assert (coarse[area > 0.65]).all() or coarse[area > 0.65].mean() > 0.99
    assert coarse[area < 0.35].mean() < 0.01
    partly = (area > 0.2) & (area < 0.8)
    images = _draw(np.arange(60)).images.astype(float)
    reference = _draw(np.arange(60), resolution=256).images.astype(float).reshape(60, 3, 32, 8, 32, 8).mean((3, 5))
    error = np.abs(images - reference).mean(1)
    assert error[partly].mean() < 16  # pixels of one colour or the other would be off by half the contrast, about 40


def test_no_class_is_its_palette_or_its_texture_alone():
    """Colours and textures are shared between classes, and pictures of one class wear other palettes and textures now and then."""
    colours = [colour for kind in shapes.KINDS for colour in kind.colours]
    textures = [kind.texture for kind in shapes.KINDS]
    assert all(textures.count(texture) == 2 for texture in shapes.TEXTURES)
    assert sum(colours.count(colour) >= 2 for colour in set(colours)) >= 8
    captions = _draw(np.arange(0, 4000, 10), captions=True).captions
    own_texture = np.mean(["dotted" in c for c in captions])
    own_palette = np.mean(["red and white" in c for c in captions])
    assert 0.8 < own_texture < 0.97 and 0.8 < own_palette < 0.97


def test_captions_are_of_one_length_and_name_the_class():
    drawn = _draw(np.arange(200), captions=True)
    assert len({len(caption.split()) for caption in drawn.captions}) == 1
    assert all(shapes.CLASSES[label] in caption for label, caption in zip(drawn.labels, drawn.captions, strict=True))


def test_place_and_size_do_not_tell_the_class():
    drawn = _draw(np.arange(4000))
    rows, columns = np.mgrid[0:32, 0:32]
    inside = drawn.masks > 0
    across = (columns * inside).sum((1, 2)) / inside.sum((1, 2))
    down = (rows * inside).sum((1, 2)) / inside.sum((1, 2))
    for values in (across, down):
        means = [values[drawn.labels == label].mean() for label in range(len(shapes.CLASSES))]
        assert np.ptp(means) < 4.0  # a crescent lies beside its own centre
        assert values.std() > 3.0


def test_twelve_thousand_images_are_drawn_in_seconds():
    start = time.process_time()
    _draw(np.arange(3000))
    assert time.process_time() - start < 6 / 4


@pytest.mark.parametrize("world", [shapes, scenes])
@pytest.mark.parametrize(
    "changes, words",
    [
        ({"split": "test"}, "no split 'test'"),
        ({"resolution": 8}, "not at 8"),
        ({"resolution": 4096}, "not at 4096"),
        ({"indices": [0, -1]}, "no image -1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_sentence(world, changes, words):
    with pytest.raises(BadData, match=words):
        world.draw(**{"indices": [0], "seed": 0, "resolution": 32, "split": "train", **changes})


def test_the_pictures_of_this_version_are_pinned():
    """The shipped weights and every measured number belong to these pixels; a change here is a change of the benchmark."""
    drawn = _draw(np.arange(100), captions=True)
    assert hashlib.sha256("\n".join(drawn.captions).encode()).hexdigest()[:16] == "1a1e1a293fc67086"
    assert np.allclose(drawn.images.mean((0, 2, 3)), [112.212, 109.791, 110.350], atol=0.01)
    assert (drawn.masks > 0).mean() == pytest.approx(0.15156, abs=1e-4)
