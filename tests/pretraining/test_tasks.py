"""The parts of the objectives: views, hidden patches, the teacher, and the codecs' gradient that meets at the latent."""

from __future__ import annotations

import torch

from svgbench.machine.order import Order
from svgbench.machine.runtime import Runtime
from svgbench.nets import draws
from svgbench.pretraining import codecs, distillation, masked, recipes
from svgbench.pretraining.families import open_trainable
from svgbench.pretraining.pictures import Pictures
from svgbench.pretraining.views import view

RUNTIME = Runtime(device="cpu", quiet=True)
PLAIN = {"stream": 7, "size": 32, "light": 0.0}


def test_a_view_depends_on_its_position_and_not_on_its_batch():
    images, positions = torch.rand(6, 3, 32, 32), torch.arange(100, 106)
    options = {"stream": 7, "size": 16, "area": (0.2, 0.6), "light": 0.4}
    together = view(images, positions, **options)
    assert together.shape == (6, 3, 16, 16)
    assert torch.equal(view(images[4:5], positions[4:5], **options), together[4:5])
    assert not torch.equal(view(images[4:5], positions[3:4], **options), together[4:5])


def test_a_view_of_the_whole_picture_is_the_picture_or_its_mirror_image():
    images = torch.rand(40, 3, 32, 32)
    whole = view(images, torch.arange(40), area=(1.0, 1.0), **PLAIN)
    # An aspect other than 1 would crop; sides are clamped to the picture, so the crop is whole in one direction at least.
    unmirrored = view(images, torch.arange(40), area=(1.0, 1.0), mirror=False, **PLAIN)
    flipped = [torch.allclose(a, b.flip(2), atol=1e-5) for a, b in zip(whole, unmirrored, strict=True)]
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, unmirrored, strict=True)]
    assert all(f or s for f, s in zip(flipped, same, strict=True)) and 8 < sum(flipped) < 32


def test_views_stay_in_the_unit_interval():
    seen = view(torch.rand(50, 3, 32, 32).round(), torch.arange(50), stream=1, size=32, area=(0.3, 1.0), light=0.8)
    assert seen.min() >= 0 and seen.max() <= 1


def test_a_hidden_patch_shows_the_mask_patch_and_nothing_of_the_image():
    student = distillation.Student(*open_trainable("dinov2-tiny", 0), head=torch.nn.Identity)
    hidden = torch.zeros(2, 4, 4, dtype=torch.bool)
    hidden[:, 1, 2] = True
    images = torch.rand(2, 3, 32, 32)
    changed = images.clone()
    changed[:, :, 8:16, 16:24] = 0.3
    with torch.no_grad():
        assert torch.equal(student(images, hidden)[0], student(changed, hidden)[0])
        assert not torch.allclose(student(images)[0], student(changed)[0])


def test_the_teacher_has_no_gradient_and_follows_by_the_average():
    shipped = recipes.build("dinov3-tiny", Pictures.drawn(16, seed=2), RUNTIME)
    task = shipped.task
    before = [p.clone() for p in task.teacher.parameters()]
    optimiser = task.optimisers["student"]

    def apply(name):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    task.update(Order(16, seed=0).batch(0, 16), apply)
    momentum = task.views.momentum
    for old, new, student in zip(before, task.teacher.parameters(), task.student.parameters(), strict=True):
        assert new.grad is None
        assert torch.allclose(new, momentum * old + (1 - momentum) * student, atol=1e-7)


def test_half_of_the_large_views_hide_their_share_of_patches():
    task = recipes.build("dinov2-tiny", Pictures.drawn(16, seed=2), RUNTIME).task
    hidden = task.hidden(Order(16, seed=0).batch(0, 400), 800, 4).flatten(1).sum(1)
    assert set(hidden.tolist()) == {0, round(task.views.hidden * 16)}
    assert 0.4 < (hidden > 0).float().mean() < 0.6


def test_a_masked_autoencoder_never_sees_hidden_patches():
    painter = masked.MaskedAutoencoder(*open_trainable("mae-tiny", 0))
    order = draws.uniform(3, torch.arange(2), (16,)).argsort(1)
    images = torch.rand(2, 3, 32, 32)
    changed = images.clone()
    for row in range(2):
        for patch in order[row, 6:].tolist():
            top, left = patch // 4 * 8, patch % 4 * 8
            changed[row, :, top : top + 8, left : left + 8] = torch.rand(3, 8, 8)
    with torch.no_grad():
        (painted, colours), (again, others) = painter(images, order, 6), painter(changed, order, 6)
    assert torch.equal(painted, again) and not torch.allclose(colours, others)


def test_painted_patches_stand_where_their_colours_do():
    """Targets are the hidden patches in the order of ``order``, each of mean 0 and variance near 1."""
    painter = masked.MaskedAutoencoder(*open_trainable("mae-tiny", 0))
    order = draws.uniform(3, torch.arange(1), (16,)).argsort(1)
    images = torch.rand(1, 3, 32, 32)
    colours = painter(images, order, 6)[1]
    patch = int(order[0, 6])
    top, left = patch // 4 * 8, patch % 4 * 8
    wanted = painter.pixels(images)[0, :, top : top + 8, left : left + 8].flatten()
    assert torch.allclose(colours[0, 0], (wanted - wanted.mean()) / (wanted.var() + 1e-2).sqrt(), atol=1e-5)
    assert colours.mean(2).abs().max() < 1e-5


def test_the_gradient_that_meets_at_the_latent_is_that_of_the_whole_loss():
    """Without a teacher, one update's gradients equal plain backpropagation of l1 + perceptual + KL."""
    task = recipes.build("sd-vae-tiny", Pictures.drawn(8, seed=2), RUNTIME).task
    batch = Order(8, seed=0).batch(0, 8)
    kept = {}
    task.update(batch, lambda name: kept.update({n: p.grad.clone() for n, p in task.model.named_parameters()}))
    task.model.zero_grad(set_to_none=True)

    images = task.pictures.floats(batch.indices)
    mirror = draws.uniform(draws.stream(task.stream, "mirror"), batch.positions) < 0.5
    images = torch.where(mirror[:, None, None, None], images.flip(3), images)
    said = codecs.posterior(task.model, task.pixels(images))
    noise = draws.normal(draws.stream(task.stream, "noise"), batch.positions, tuple(said.mean.shape[1:]))
    losses = task._reconstruction(images, codecs.decoded_pixels(task.model, said.mean + noise * (0.5 * said.log_variance).exp()), 8)
    divergence = 0.5 * (said.mean**2 + said.log_variance.exp() - 1 - said.log_variance).sum() / 8
    (losses["l1"] + codecs.PERCEPTUAL_WEIGHT * losses["perceptual"] + codecs.KL_WEIGHT * divergence).backward()
    for name, parameter in task.model.named_parameters():
        assert torch.allclose(parameter.grad, kept[name], atol=1e-6, rtol=1e-3), name


def test_alignment_is_zero_within_its_margins_and_positive_outside():
    """Equations 5 and 7 of VA-VAE: nothing where the projected latent lies within 60 degrees of the features and pairs agree."""

    class Teacher:
        channels = 4

        def encode(self, images):
            return features

    torch.manual_seed(0)
    task = object.__new__(codecs.Autoencoding)
    task.teacher, task.projection = Teacher(), torch.nn.Conv2d(4, 4, 1, bias=False)
    with torch.no_grad():
        task.projection.weight.copy_(torch.eye(4)[:, :, None, None])
    features = torch.randn(2, 4, 3, 3)
    gradient, loss = task._alignment(torch.zeros(2, 3, 8, 8), 3 * features.clone())
    assert loss == 0 and gradient.abs().max() == 0
    gradient, loss = task._alignment(torch.zeros(2, 3, 8, 8), -features.clone())
    assert loss > 1.4 and gradient.abs().max() > 0
