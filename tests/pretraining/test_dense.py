"""Self-distillation for scenes: views in other colours, answers of every patch; and what a linear map finds in features."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from svgbench.machine.order import Order
from svgbench.machine.runtime import Runtime
from svgbench.pretraining import recipes
from svgbench.pretraining.linear import NOISE, linear_psnr
from svgbench.pretraining.pictures import Pictures
from svgbench.pretraining.views import Colours, recoloured

RUNTIME = Runtime(device="cpu", quiet=True)
PLAIN = Colours(exchanged=0.0, grey=0.0, saturation=0.0, light=0.0, blurred=0.0, solarised=0.0)
LUMINANCE = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


def _soft_images(count):
    """Images whose colours stay inside [0, 1] when their hue turns."""
    return 0.4 + 0.2 * torch.rand(count, 3, 16, 16)


def test_a_recoloured_view_keeps_luminance_and_turns_hue():
    images = _soft_images(20)
    seen = recoloured(images, torch.arange(20), stream=1, colours=PLAIN)
    torch.testing.assert_close((seen * LUMINANCE).sum(1), (images * LUMINANCE).sum(1), rtol=0, atol=1e-3)
    assert (seen - images).abs().mean((1, 2, 3)).median() > 0.02
    assert not torch.allclose(recoloured(images, torch.arange(20), stream=2, colours=PLAIN), seen)


def test_exchanged_chroma_is_that_of_another_image_and_grey_has_none():
    images = _soft_images(12)
    images[1:] = images[1:].mean(1, keepdim=True)  # only the first image has colour
    exchanged = recoloured(images, torch.arange(12), stream=3, colours=dataclasses.replace(PLAIN, exchanged=1.0))
    coloured = (exchanged - exchanged.mean(1, keepdim=True)).abs().amax((1, 2, 3)) > 0.01
    assert not coloured[0] and (exchanged * LUMINANCE).sum(1)[0].allclose((images * LUMINANCE).sum(1)[0], atol=1e-3)
    grey = recoloured(_soft_images(12), torch.arange(12), stream=3, colours=dataclasses.replace(PLAIN, grey=1.0))
    assert (grey - grey.mean(1, keepdim=True)).abs().max() < 2e-3


def test_blur_and_solarisation_apply_to_their_share_of_views():
    images, positions = (0.55 + 0.4 * torch.rand(400, 3, 16, 16)).mean(1, keepdim=True).expand(-1, 3, -1, -1), torch.arange(400)
    for setting in ("blurred", "solarised"):
        seen = recoloured(images, positions, stream=4, colours=dataclasses.replace(PLAIN, **{setting: 0.3}))
        changed = (seen - images).abs().amax((1, 2, 3)) > 0.05
        assert 0.22 < changed.float().mean() < 0.38
    assert seen.min() >= 0 and seen.max() <= 1


def test_the_students_large_views_are_the_teachers_in_other_colours():
    task = recipes.build("dinov3-mini", _scenes(24), RUNTIME).task
    shown, asked, small = task._views(Order(24, seed=0).batch(0, 24))
    assert shown.shape == asked.shape == (48, 3, 64, 64) and small.shape == (24 * task.settings.small, 3, 32, 32)
    light, other = ((views * LUMINANCE).sum(1).flatten(1) for views in (shown, asked))
    light, other = (x - x.mean(1, keepdim=True) for x in (light, other))
    alike = (light * other).sum(1) / (light.norm(dim=1) * other.norm(dim=1))
    assert alike.median() > 0.95
    assert (shown - asked).abs().mean() > 0.05


def test_every_patch_answers_and_the_teacher_follows():
    """A gradient reaches the tokens of patches that are not hidden, and the teacher moves by its average alone."""
    task = recipes.build("dinov3-mini", _scenes(16), RUNTIME).task
    before, seen = [p.clone() for p in task.teacher.parameters()], {}
    optimiser = task.optimisers["student"]

    def apply(name):
        seen["directions"] = task.student.patch_head.directions.grad.clone()
        for group in optimiser.param_groups:
            group["lr"] = 1e-3
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    losses = task.update(Order(16, seed=0).batch(0, 16), apply)
    assert set(losses) == {"image", "mean", "patches", "agreement", "koleo"} and all(torch.isfinite(loss) for loss in losses.values())
    assert (seen["directions"].norm(dim=1) > 0).all()
    momentum = task.settings.momentum
    for old, new, student in zip(before, task.teacher.parameters(), task.student.parameters(), strict=True):
        assert torch.allclose(new, momentum * old + (1 - momentum) * student, atol=1e-7)


def _scenes(count):
    return Pictures.drawn(count, seed=9, source="scenes", resolution=64, split="pretrain")


def test_linear_psnr_is_that_of_least_squares_and_of_the_best_numbers():
    """Features that hold a patch's luminance give it back; eight more numbers add what the rest of the patch has in its main directions."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(3, 2 * 2 * 3, generator=generator)
    sources = torch.randn(700, 4, 3, generator=generator)  # three numbers make a patch of 2 x 2 pixels
    images = F.fold((0.5 + 0.04 * sources @ mixing).transpose(1, 2), (4, 4), 2, stride=2).clamp(0, 1).mul(255).round().byte()
    first = sources[..., :1].transpose(1, 2).reshape(700, 1, 2, 2)
    found = linear_psnr(first[:500], images[:500], first[500:], images[500:], stride=2, more=2)
    patches = F.unfold(images.float() / 255, 2, stride=2).transpose(1, 2)
    numbers = sources[..., 0]
    numbers = (numbers - numbers[:500].mean(0)) / numbers[:500].std(0)
    design = torch.cat([numbers, torch.ones(700, 1)], 1)
    penalty = (NOISE**2 * 500) ** 0.5 * torch.eye(5)  # as rows of least squares
    solution = torch.linalg.lstsq(torch.cat([design[:500], penalty]), torch.cat([patches[:500].flatten(1), torch.zeros(5, 48)])).solution
    wanted = -10 * (patches.flatten(1) - design @ solution)[500:].square().mean(1).log10().mean()
    assert found.alone == pytest.approx(float(wanted), abs=0.01)
    assert found.more > found.alone + 8
    all_three = linear_psnr(first[:500], images[:500], first[500:], images[500:], stride=2, more=3)
    assert all_three.more > 45  # a patch has three numbers, but for rounding
    worse = linear_psnr(torch.randn(500, 1, 2, 2), images[:500], torch.randn(200, 1, 2, 2), images[500:], stride=2, more=2)
    assert worse.alone < found.alone - 1
