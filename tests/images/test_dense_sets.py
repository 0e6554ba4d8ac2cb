"""Dense sets: what is listed, what a pixel means, and one sentence for each thing that can be wrong with a folder."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scenes import ade20k, nyu

from svgbench.errors import BadData
from svgbench.images.dense_sets import ImagePair, count_usable_pixels, open_set, read_depth, read_labelled


def first(root, kind="segmentation"):
    found = open_set(kind, str(root))
    return found.root, found.training[0]


def rewrite(root, pair, array):
    Image.fromarray(array).save(root / pair.target)


def test_label_zero_is_ignored_and_class_k_is_k_minus_one(tmp_path):
    root, pair = first(ade20k(tmp_path))
    mask = np.asarray(Image.open(root / pair.target))
    sample = read_labelled(root, pair, 4)
    assert sample.image.mode == "RGB" and sample.image.size == (mask.shape[1], mask.shape[0])
    assert (sample.target[mask == 0] == 255).all() and (mask == 0).any()
    assert np.array_equal(sample.target[mask > 0], mask[mask > 0] - 1)


def test_pairs_are_in_the_order_of_their_names_and_the_identity_tells_contents_not_places(tmp_path):
    root = ade20k(tmp_path / "a")
    found = open_set("segmentation", str(root))
    identity = found.identity
    assert len(found.training) == 6 and len(found.validation) == 4 and list(found.training) == sorted(found.training)
    shutil.copytree(root, tmp_path / "elsewhere")
    assert open_set("segmentation", str(tmp_path / "elsewhere"), identity).identity == identity
    (root / found.training[0].image).write_bytes(b"other")
    with pytest.raises(BadData, match="changed after this run was planned"):
        open_set("segmentation", str(root), identity)


def test_depth_is_in_metres_and_zero_is_unknown(tmp_path):
    root, pair = first(nyu(tmp_path), "depth")
    sample = read_depth(root, pair)
    assert sample.target.dtype == np.float32 and not sample.target[:, 0].any()
    assert sample.target[:, 1:].min() > 1.4 and sample.target.max() < 6.2


def test_split_lists_name_the_same_pairs_as_folders(tmp_path):
    root = nyu(tmp_path)
    plain = open_set("depth", str(root))
    for name, pairs in (("nyu_train.txt", plain.training), ("nyu_test.txt", plain.validation)):
        (root / name).write_text("".join(f"/{pair.image} /{pair.target} 518.8579\n" for pair in pairs) + "\n")
    listed = open_set("depth", str(root))
    assert (listed.training, listed.validation) == (plain.training, plain.validation)
    assert listed.identity == plain.identity


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root, pair: (root / pair.target).unlink(), r"ADE_training_00000000\.jpg has no annotations/training/ADE_training_00000000"),
        (lambda root, pair: (root / pair.image).unlink(), r"annotations/training/ADE_training_00000000\.png has no images/training"),
        (lambda root, pair: shutil.rmtree(root / "images" / "validation"), "images/validation: contains no images"),
        (lambda root, pair: shutil.rmtree(root), "is not a folder; set scores.segmentation.source to"),
    ],
)
def test_what_a_folder_lacks_is_named(tmp_path, change, words):
    root, pair = first(ade20k(tmp_path / "set"))
    change(root, pair)
    with pytest.raises(BadData, match=words) as error:
        open_set("segmentation", str(root))
    assert error.value.field == "scores.segmentation.source"


@pytest.mark.parametrize(("kind", "make"), [("segmentation", ade20k), ("depth", nyu)])
def test_the_folder_above_a_dense_set_names_it(tmp_path, kind, make):
    make(tmp_path / "unpacked" / "set")
    with pytest.raises(BadData, match=r"its only folder, 'set', has the images and .*; give .*/unpacked/set"):
        open_set(kind, str(tmp_path / "unpacked"))


def test_what_a_split_list_lacks_is_named(tmp_path):
    root = nyu(tmp_path)
    (root / "nyu_train.txt").write_text("images/training/0000.png\n")
    with pytest.raises(BadData, match=r"nyu_train.txt, line 1: names only one file"):
        open_set("depth", str(root))
    (root / "nyu_train.txt").write_bytes(b"images/training/\xff.png depth/training/0000.png\n")
    with pytest.raises(BadData, match=r"line 1: .* does not exist"):
        open_set("depth", str(root))
    (root / "nyu_train.txt").write_text("images/training/0000.png depth/training/none.png\n")
    with pytest.raises(BadData, match=r"line 1: .*none.png does not exist"):
        open_set("depth", str(root))
    for outside in ("../secret.png", "images/../../secret.png", "/../secret.png"):
        (root / "nyu_train.txt").write_text(f"{outside} depth/training/0000.png\n")
        with pytest.raises(BadData, match=r"nyu_train.txt, line 1: .*secret.png is outside .*; name files in that folder"):
            open_set("depth", str(root))
    (root / "nyu_train.txt").write_text("images/training/0000.png depth/training/0000.png\n")
    with pytest.raises(BadData, match=r"nyu_test\.txt does not exist") as error:
        open_set("depth", str(root))
    assert error.value.field == "scores.depth.source"


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (lambda shape: np.ones((shape[0] + 1, shape[1]), np.uint8), "the mask is .* px, its image .*; both must have the same size"),
        (lambda shape: np.full(shape, 5, np.uint8), "has label 5, but the classes are 1 to 4"),
        (lambda shape: np.ones((*shape, 3), np.uint8), "has 3 channels; a mask has one"),
        (lambda shape: np.full(shape, 300, np.uint16), "has label 300, but the classes are 1 to 4"),
        (lambda shape: np.ones((*shape, 4), np.uint8), "has 4 channels; a mask has one"),
    ],
)
def test_a_mask_that_cannot_be_used_is_named(tmp_path, mask, words):
    root, pair = first(ade20k(tmp_path))
    rewrite(root, pair, mask(np.asarray(Image.open(root / pair.target)).shape))
    with pytest.raises(BadData, match=words):
        read_labelled(root, pair, 4)


@pytest.mark.parametrize(
    ("depth", "words"),
    [
        (lambda shape: np.zeros(shape, np.uint16), "every depth is zero"),
        (lambda shape: np.ones(shape, np.uint8), "has 8 bits per pixel"),
        (lambda shape: np.ones((*shape, 3), np.uint8), "has 3 channels; a depth map has one"),
        (lambda shape: np.ones((shape[0], shape[1] - 1), np.uint16), "the depth map is .* px, its image"),
    ],
)
def test_a_depth_map_that_cannot_be_used_is_named(tmp_path, depth, words):
    root, pair = first(nyu(tmp_path), "depth")
    rewrite(root, pair, depth((48, 64)))
    with pytest.raises(BadData, match=words):
        read_depth(root, pair)


def test_a_file_that_is_no_image_is_named(tmp_path):
    root, pair = first(ade20k(tmp_path))
    (root / pair.target).write_bytes(b"\x89PNG\r\n")
    with pytest.raises(BadData, match=r"ADE_training_00000000.png: cannot be read"):
        read_labelled(root, pair, 4)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_set_without_a_pixel_that_counts_is_refused(threads):
    pairs, seen = [ImagePair("a", "b")] * 5, []
    count_usable_pixels(Path("a"), pairs, lambda pair: 1, threads=threads, kind="masks", advance=seen.append)
    assert sum(seen) == 5
    with pytest.raises(BadData, match=r"the masks have no usable pixel \(b and 4 more\): all are 0, which means unlabelled; give masks"):
        count_usable_pixels(Path("a"), pairs, lambda pair: 0, threads=threads, kind="masks", advance=seen.append)
    with pytest.raises(BadData, match=r"the depth maps have no usable pixel \(b\): .* out of the head's range"):
        count_usable_pixels(Path("a"), pairs[:1], lambda pair: 0, threads=threads, kind="depth maps", advance=seen.append)


def test_every_pair_is_read_before_training(tmp_path):
    root, pair = first(ade20k(tmp_path))
    rewrite(root, pair, np.full(np.asarray(Image.open(root / pair.target)).shape, 200, np.uint8))
    found = open_set("segmentation", str(root))
    counted = partial(read_labelled, root, classes=4)
    with pytest.raises(BadData, match="has label 200"):
        count_usable_pixels(found.root, found.training, lambda p: counted(p).target.size, threads=2, kind="masks", advance=lambda n: None)
