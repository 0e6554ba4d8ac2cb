"""The mistakes that spoil this field's numbers, made on purpose: each must make a named test of this suite fail.

A mutant replaces one of our functions by a wrong one, everywhere its guard sees it; the guard, a test elsewhere in the suite, must pass
before and fail while the mutant is there.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from svgbench.images import shapes
from svgbench.nets.classifier import ShapesCNN, ShapesVGG

TESTS = Path(__file__).parents[1]


class Mutant(NamedTuple):
    """One mistake and the test that notices it."""

    target: str
    """``module:function`` or ``module:Class.method``."""
    wrong: Callable[[Any], Any]
    """The right one -> the wrong one."""
    guard: str
    """``file:test`` below tests/."""
    given: Callable[[Path], dict[str, Any]] = lambda place: {}
    """The guard's arguments: what its fixtures or its parametrisation would hand it."""


@cache
def load(file: str) -> ModuleType:
    """A test module, opened by its path as a second copy, so that nothing of the running suite is touched."""
    path = TESTS / file
    spec = importlib.util.spec_from_file_location(f"guards_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)  # where its helpers lie
        spec.loader.exec_module(module)
    return module


def own_place(place: Path) -> dict[str, Any]:
    return {"tmp_path": place}


def two_networks(place: Path) -> dict[str, Any]:
    """Random weights of both small networks, as test_features' fixture writes them."""
    torch.manual_seed(0)
    save_file(ShapesCNN(classes=4, words=6).state_dict(), place / "cnn.safetensors")
    save_file(ShapesVGG(classes=4, words=6).state_dict(), place / "vgg.safetensors")
    return {"weights": place}


def two_folders(place: Path) -> dict[str, Any]:
    """Two folders of images, as test_whole_sets' fixture draws them."""
    places = []
    for name, split in (("given", "val"), ("real", "train")):
        (place / name).mkdir()
        for number, image in enumerate(shapes.draw(range(150), seed=0, resolution=32, split=split).images):
            Image.fromarray(np.moveaxis(image, 0, -1)).save(place / name / f"{number:03d}.png")
        places.append(place / name)
    return {"folders": tuple(places)}


def small_images(place: Path) -> dict[str, Any]:
    return {"images": torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))}


# --- the mistakes ---


def files_as_bgr(right):
    return lambda *words, **more: np.ascontiguousarray(right(*words, **more)[::-1])


def judged_as_bgr(right):
    return lambda self, images: right(self, images.flip(1))


def scored_as_bgr(right):
    return lambda images, originals: right(images.flip(1), originals)


def crop_without_antialias(right):
    def crop(image: Image.Image, resolution: int) -> np.ndarray:
        scale = resolution / min(image.size)
        size = (round(image.height * scale), round(image.width * scale))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
        plain = F.interpolate(pixels, size=size, mode="bicubic", antialias=False).clamp(0, 255).round().byte()[0].permute(1, 2, 0).numpy()
        top, left = (size[0] - resolution) // 2, (size[1] - resolution) // 2
        return plain[top : top + resolution, left : left + resolution]

    return crop


def resize_without_antialias(right):
    """torch.nn.functional as one module sees it."""
    return SimpleNamespace(interpolate=lambda x, **how: F.interpolate(x, **{**how, "antialias": False}))


def masks_one_too_high(right):
    return lambda predictions, masks, classes: right(predictions, torch.where(masks == 255, masks, (masks + 1) % classes), classes)


def masks_as_on_disk(right):
    """Without ADE20K's zero for unlabelled taken off."""

    def read(root, pair, classes):
        sample = right(root, pair, classes)
        return sample._replace(target=sample.target + np.uint8(1))

    return read


def drawn_masks_one_too_high(right):
    def draw(*words, **more):
        drawn = right(*words, **more)
        return drawn._replace(masks=np.where(drawn.masks > 0, drawn.masks + 1, 0).astype(np.uint8))

    return draw


def pixels_normalised_twice(right):
    return lambda self, images, function: right(self, (images - self.mean) / self.std, function)


def latents_standardised_twice(right):
    return lambda self, raw: right(self, right(self, raw))


def levels_cut_off(right):
    return lambda images: (images.float().clamp(0, 1) * 255).to(torch.uint8)


def levels_from_minus_one_to_one(right):
    return lambda images: ((images.float() * 2 - 1) * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def levels_of_256(right):
    return lambda images: (images.float().clamp(0, 1) * 256).clamp(max=255).to(torch.uint8)


def last_batch_filled_up(right):
    def batches(images, size, runtime=None):
        for start, part in right(images, size, runtime):
            yield start, part if len(part) == size else torch.cat([part, part[:1].expand(size - len(part), *part.shape[1:])])

    return batches


def share_filled_up(right):
    """What a distributed sampler does that gives each rank as many."""

    def shard(self, count):
        each = -(-count // self.world)
        return [index % count for index in range(self.rank, each * self.world, self.world)] if count else []

    return shard


def doubled_images_pass(right):
    return lambda images, runtime: None


def covariance_over_n(right):
    return lambda self: right(self)._replace(covariance=self.scatter / self.count)


FRECHET = "svgbench.metrics.frechet:Moments.gaussian"
ROUNDING, ROUNDED = "svgbench.metrics.samples:to_uint8", "metrics/test_samples.py:test_rounding_takes_the_nearest_level_and_refuses_nan"
MUTANTS = {
    "BGR out of a file": Mutant(
        "svgbench.images.crop:read_image", files_as_bgr,
        "images/test_store.py:test_exif_rotation_is_not_applied_and_of_an_animation_the_first_picture_is_taken", own_place),
    "BGR into the judging network": Mutant(
        "svgbench.metrics.features:Extractor.__call__", judged_as_bgr,
        "agreement/test_whole_sets.py:test_a_folder_on_the_shipped_network_scores_as_by_torch_fidelity", two_folders),
    "BGR into SSIM": Mutant(
        "svgbench.metrics.pixels:ssim", scored_as_bgr, "agreement/test_distances.py:test_psnr_and_ssim_are_torchmetrics",
        lambda place: {"size": 32}),
    "no antialias in the crop": Mutant(
        "svgbench.images.crop:centre_crop", crop_without_antialias,
        "images/test_store.py:test_the_crop_of_a_picture_between_sizes_has_the_golden_values"),
    "no antialias before the encoder": Mutant(
        "svgbench.backends.open:F", resize_without_antialias, "backends/test_resize.py:test_the_others_do_both"),
    "masks off by one in the areas": Mutant(
        "svgbench.metrics.segmentation:areas_of", masks_one_too_high, "metrics/test_segmentation.py:test_miou_by_hand"),
    "masks off by one in the drawing": Mutant(
        "svgbench.images.shapes:draw", drawn_masks_one_too_high,
        "images/test_shapes.py:test_masks_hold_the_class_on_the_object_and_zero_elsewhere"),
    "masks off by one in the reader": Mutant(
        "svgbench.images.dense_sets:read_labelled", masks_as_on_disk,
        "images/test_dense_sets.py:test_label_zero_is_ignored_and_class_k_is_k_minus_one", own_place),
    "pixels normalised twice": Mutant(
        "svgbench.backends.open:FrozenEncoder._encode", pixels_normalised_twice,
        "backends/test_open.py:test_encoder_normalises_its_own_pixels_and_leaves_out_prefix_tokens", small_images),
    "latents standardised twice": Mutant(
        "svgbench.nets.latents:LatentStats.standardise", latents_standardised_twice,
        "nets/test_latents.py:test_standardised_latents_have_unit_moments_and_come_back"),
    "levels cut off": Mutant(ROUNDING, levels_cut_off, ROUNDED),
    "levels by 127.5 x + 128, cut off": Mutant(ROUNDING, levels_from_minus_one_to_one, ROUNDED),
    "levels of 256": Mutant(ROUNDING, levels_of_256, ROUNDED),
    "a tail doubled in the last batch": Mutant(
        "svgbench.metrics.features:batches", last_batch_filled_up,
        "metrics/test_features.py:test_features_do_not_depend_on_the_batch_or_on_what_holds_the_images", two_networks),
    "a tail doubled over ranks": Mutant(
        "svgbench.machine.runtime:Runtime.shard", share_filled_up, "machine/test_runtime.py:test_shares_of_all_ranks_are_every_index_once",
        lambda place: {"count": 7, "world": 3}),
    "doubled samples scored": Mutant(
        "svgbench.metrics.samples:_check_distinct", doubled_images_pass,
        "metrics/test_samples.py:test_one_doubled_image_is_refused_and_named"),
    "a biased covariance": Mutant(FRECHET, covariance_over_n, "metrics/test_frechet.py:test_moments_do_not_depend_on_order_or_split"),
    "a biased covariance in the distance": Mutant(
        FRECHET, covariance_over_n, "agreement/test_distances.py:test_the_frechet_distance_is_that_of_scipys_matrix_square_root",
        lambda place: {"width": 8}),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_is_noticed_by_a_test_that_passes_without_it(name, tmp_path):
    mutant = MUTANTS[name]
    file, _, test = mutant.guard.partition(":")
    guards = load(file)
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
    run(getattr(guards, test), mutant.given(tmp_path / "1"))
    with pytest.MonkeyPatch.context() as patch:
        mutate(mutant, guards, patch)
        with pytest.raises((AssertionError, IndexError, RuntimeError, pytest.fail.Exception)):
            run(getattr(guards, test), mutant.given(tmp_path / "2"))


def run(test: Callable[..., None], given: dict[str, Any]) -> None:
    """Calls a test with its arguments; ``monkeypatch`` is one of its own."""
    with pytest.MonkeyPatch.context() as patch:
        names = test.__code__.co_varnames[: test.__code__.co_argcount]
        test(**given, **({"monkeypatch": patch} if "monkeypatch" in names else {}))


def mutate(mutant: Mutant, guards: ModuleType, patch: pytest.MonkeyPatch) -> None:
    """Puts the wrong function in the place of the right one, in its module or class and under every name the guards and we have for it."""
    module_name, _, path = mutant.target.partition(":")
    owner: Any = importlib.import_module(module_name)
    *parents, attribute = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    right = getattr(owner, attribute)
    wrong = mutant.wrong(right)
    patch.setattr(owner, attribute, wrong)
    if parents or isinstance(right, ModuleType):
        return  # a class's method is found through the class; a library's module is replaced for one of ours alone
    for module in [guards, *(m for name, m in list(sys.modules.items()) if name.startswith("svgbench."))]:
        for name, value in list(vars(module).items()):
            if value is right:
                patch.setattr(module, name, wrong)
