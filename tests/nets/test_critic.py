from types import SimpleNamespace

import pytest
import torch
from torch import nn

from svgbench.nets.critic import PatchDiscriminator, ReconstructionObjective, adaptive_weight, last_layer_gradients, perceptual_distance
from svgbench.nets.ldm import LdmDecoder

IMAGES = torch.rand(6, 3, 32, 32)
LATENTS = torch.randn(6, 4, 8, 8)


@pytest.fixture
def parts():
    """A decoder, a discriminator and an objective with a fixed random perceptual network."""
    torch.manual_seed(0)
    decoder = LdmDecoder(base=8, multipliers=(1, 2, 2), blocks=1, attention=(), z_channels=4, resolution=32)
    discriminator = PatchDiscriminator(8, 2)
    judge = nn.Conv2d(3, 7, 3, padding=1).requires_grad_(False)
    perceptual = SimpleNamespace(activations=lambda x: [judge(x), judge(x).relu()[..., ::2, ::2]], weights=[torch.rand(7), torch.rand(7)])
    objective = ReconstructionObjective(l1=1.0, perceptual=0.7, adversarial=0.5, judge=perceptual, discriminator=discriminator)
    return SimpleNamespace(decoder=decoder, discriminator=discriminator, judge=perceptual, objective=objective)


def naive(parts):
    """Gradients of the decoder the way papers write them: one graph, the adaptive weight by autograd at the last layer."""
    y = parts.decoder(LATENTS)
    wanted, seen = (parts.judge.activations(x) for x in (IMAGES, y * 0.5 + 0.5))
    reconstruction = (y - (IMAGES * 2 - 1)).abs().mean() + 0.7 * perceptual_distance(wanted, seen, parts.judge.weights).mean()
    adversarial = -parts.discriminator(y).mean()
    last = parts.decoder.conv_out.weight
    norms = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)]
    weight = (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4)
    gradients = torch.autograd.grad(reconstruction + 0.5 * weight * adversarial, list(parts.decoder.parameters()))
    return weight, gradients


def in_parts(parts, cuts):
    """The same from micro-batches: gradients at the outputs and at the last layer first, one backward pass each afterwards."""
    kept, at_last = [], 0.0
    for cut in cuts:
        hidden = parts.decoder.before_last(LATENTS[cut])
        y = parts.decoder.conv_out(hidden)
        found = parts.objective.gradients(y, IMAGES[cut], size=6, gan=True)
        at_last = at_last + last_layer_gradients(parts.decoder, hidden, found)
        kept.append((y, found))
    weight = adaptive_weight(at_last)
    for y, found in kept:
        y.backward(found.reconstruction + 0.5 * weight * found.adversarial)
    return weight, [p.grad for p in parts.decoder.parameters()]


@pytest.mark.parametrize("cuts", [[slice(0, 6)], [slice(0, 2), slice(2, 3), slice(3, 6)]])
def test_one_backward_pass_and_micro_batches_give_the_naive_gradients(parts, cuts):
    wanted_weight, wanted = naive(parts)
    weight, gradients = in_parts(parts, cuts)
    torch.testing.assert_close(weight, wanted_weight, rtol=1e-4, atol=0)
    noise = 1e-5 * max(want.abs().max().item() for want in wanted)  # a bias in front of a norm has no gradient but rounding
    for got, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=noise)


def test_finding_the_generators_gradients_leaves_discriminator_and_judge_untouched(parts):
    found = parts.objective.gradients(parts.decoder(LATENTS), IMAGES, size=6, gan=True)
    assert set(found.losses) == {"l1", "perceptual", "generator"}
    assert all(p.grad is None for p in parts.discriminator.parameters())
    assert not any(g.requires_grad for g in (found.reconstruction, found.adversarial))


def test_without_the_gan_term_only_the_reconstruction_speaks(parts):
    found = parts.objective.gradients(parts.decoder(LATENTS), IMAGES, size=6, gan=False)
    assert found.adversarial is None and set(found.losses) == {"l1", "perceptual"}


def test_the_discriminators_hinge_loss_is_its_closed_form_and_adds_over_micro_batches(parts):
    y = parts.decoder(LATENTS)
    real, fake = parts.discriminator(IMAGES * 2 - 1), parts.discriminator(y)
    expected = 0.5 * ((1 - real).relu().mean() + (1 + fake).relu().mean())
    whole = parts.objective.discriminate(y, IMAGES, size=6)
    split = sum(parts.objective.discriminate(y[s], IMAGES[s], size=6) for s in (slice(0, 1), slice(1, 6)))
    torch.testing.assert_close(whole, expected)
    torch.testing.assert_close(split, expected)


def test_the_discriminator_gives_the_decoder_no_gradient_and_itself_one(parts):
    y = parts.decoder(LATENTS)
    parts.objective.discriminate(y, IMAGES, size=6).backward()
    assert all(p.grad is None for p in parts.decoder.parameters())
    assert all(p.grad is not None for p in parts.discriminator.parameters())


def test_a_discriminators_logits_do_not_depend_on_batch_mates(parts):
    whole = parts.discriminator(IMAGES)
    assert whole.shape[1] == 1 and whole.ndim == 4
    torch.testing.assert_close(parts.discriminator(IMAGES[2:3]), whole[2:3])


def test_the_adaptive_weight_is_a_ratio_of_norms_within_its_bounds():
    assert adaptive_weight(torch.tensor([[3.0, 4.0], [0.0, 2.0]])).item() == pytest.approx(5 / 2.0001)
    assert adaptive_weight(torch.tensor([[3e9, 0.0], [0.0, 0.0]])).item() == 1e4
    assert adaptive_weight(torch.zeros(2, 3)).item() == 0


def test_perceptual_distance_is_lpips_in_plain_arithmetic():
    a, b, w = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), torch.rand(4)
    expected = []
    for i in range(2):
        cells = [
            sum(w[c] * (a[i, c, y, x] / a[i, :, y, x].norm() - b[i, c, y, x] / b[i, :, y, x].norm()) ** 2 for c in range(4))
            for y in range(3)
            for x in range(3)
        ]
        expected.append(sum(cells) / 9)
    torch.testing.assert_close(perceptual_distance([a], [b], [w]).float(), torch.stack(expected))
    assert not perceptual_distance([a], [a]).any()


def test_perceptual_gradients_stay_finite_where_all_activations_are_zero():
    a = torch.zeros(1, 4, 2, 2, requires_grad=True)
    perceptual_distance([a], [torch.randn(1, 4, 2, 2)]).sum().backward()
    assert torch.isfinite(a.grad).all()


def test_the_release_s_clamp_of_a_summed_loss_binds_where_its_share_does_here(parts):
    """github:shiml20/SVG@fd69855, contperceptual_decoder.py: the loss is a sum over an image's numbers, its adaptive weight at most 1e4. On
    a mean the same clamp is 1e4 / numbers, and the gradient is the release's over their count."""
    numbers, clamp = 3 * 32 * 32, 200.0
    y = parts.decoder(LATENTS)
    wanted, seen = (parts.judge.activations(x) for x in (IMAGES, y * 0.5 + 0.5))
    mean = (y - (IMAGES * 2 - 1)).abs().mean() + 0.7 * perceptual_distance(wanted, seen, parts.judge.weights).mean()
    summed, adversarial = mean * numbers, -parts.discriminator(y).mean()
    last = parts.decoder.conv_out.weight
    norms = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (summed, adversarial)]
    free = norms[0] / (norms[1] + 1e-4)
    (released,) = torch.autograd.grad(summed + 0.5 * free.clamp(0.0, clamp) * adversarial, last, retain_graph=True)
    found = parts.objective.gradients(y, IMAGES, size=6, gan=True)
    at_last = last_layer_gradients(parts.decoder, parts.decoder.before_last(LATENTS), found)
    weight = adaptive_weight(at_last, clamp / numbers)
    assert free > clamp and adaptive_weight(at_last).item() > weight.item() and weight.item() == pytest.approx(clamp / numbers)
    (ours,) = torch.autograd.grad(y, last, found.reconstruction + 0.5 * weight * found.adversarial)
    torch.testing.assert_close(ours * numbers, released, rtol=1e-3, atol=1e-5 * released.abs().max().item())


def test_the_preset_paper_has_the_release_s_clamp_and_start():
    from svgbench.config.build import build

    loss = build({}, preset="paper").autoencoder.loss
    assert loss.adaptive_limit == pytest.approx(1e4 / (3 * 256 * 256), rel=1e-8)
    first = next(batch for batch in range(5001) if 2 * batch + 1 >= 5001)  # both optimisers count: the discriminator's turn is step 2 b + 1
    assert loss.adversarial_start_images == 1_280_000 == first * 512
    assert all(build({}, preset=other).autoencoder.loss.adaptive_limit is None for other in ("tiny", "small"))
