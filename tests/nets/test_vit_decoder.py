from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from svgbench.errors import BadConfig, BadInput
from svgbench.nets.critic import PatchDiscriminator, ReconstructionObjective, adaptive_weight, last_layer_gradients
from svgbench.nets.tokenizer import Tokenizer
from svgbench.nets.vit_decoder import PatchPixels, ViTDecoder

SMALL = dict(z_channels=5, resolution=32, stride=8, width=16, layers=2, heads=2, mlp=24)
LATENTS = torch.randn(6, 5, 4, 4)
IMAGES = torch.rand(6, 3, 32, 32)


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return ViTDecoder(**SMALL)


def test_each_token_paints_its_own_patch_row_by_row_colour_last():
    pixels = PatchPixels(4, 2)
    tokens = torch.randn(2, 4, 3, 5)
    images = pixels(tokens)
    assert images.shape == (2, 3, 6, 10)
    patch = F.linear(tokens[1, :, 2, 3], pixels.weight, pixels.bias).reshape(2, 2, 3).permute(2, 0, 1)
    torch.testing.assert_close(images[1, :, 4:6, 6:8], patch)


def test_every_patch_sees_every_latent_and_its_own_position(decoder):
    images = decoder(LATENTS)
    assert images.shape == (6, 3, 32, 32)
    moved = LATENTS.clone()
    moved[:, :, 0, 0] += 1
    assert ((decoder(moved) - images).abs().amax((0, 1)) > 0).all()
    even = decoder(torch.zeros(1, 5, 4, 4))
    assert (even[..., :8, :8] - even[..., :8, 8:16]).abs().max() > 1e-3


def test_positions_are_fixed_and_not_in_the_state(decoder):
    assert "positions" not in decoder.state_dict() and decoder.positions.shape == (16, 16)
    assert all(p.requires_grad for p in decoder.parameters())


def test_latents_of_another_grid_or_width_are_refused_in_words(decoder):
    with pytest.raises(BadInput, match=r"latents of \[5, 8, 8\] do not fit a decoder of \[5, 4, 4\]"):
        decoder(torch.randn(1, 5, 8, 8))
    with pytest.raises(BadInput, match=r"latents of \[6, 4, 4\]"):
        decoder(torch.randn(1, 6, 4, 4))
    with pytest.raises(BadConfig, match="width 18 with 3 heads"):
        ViTDecoder(**{**SMALL, "width": 18, "heads": 3})


@pytest.mark.parametrize("cuts", [[slice(0, 6)], [slice(0, 2), slice(2, 3), slice(3, 6)]])
def test_the_adaptive_weight_is_that_of_one_graph_in_any_micro_batches(decoder, cuts):
    torch.manual_seed(1)
    discriminator = PatchDiscriminator(8, 2)
    objective = ReconstructionObjective(l1=1.0, perceptual=0.0, adversarial=0.5, judge=None, discriminator=discriminator)
    y = decoder(LATENTS)
    losses = ((y - (IMAGES * 2 - 1)).abs().mean(), -discriminator(y).mean())
    norms = [torch.autograd.grad(loss, decoder.conv_out.weight, retain_graph=True)[0].norm() for loss in losses]
    at_last = 0.0
    for cut in cuts:
        with torch.no_grad():
            hidden = decoder.before_last(LATENTS[cut])
            y = decoder.conv_out(hidden)
        found = objective.gradients(y, IMAGES[cut], size=6, gan=True)
        at_last = at_last + last_layer_gradients(decoder, hidden, found)
    torch.testing.assert_close(adaptive_weight(at_last), (norms[0] / (norms[1] + 1e-4)).detach(), rtol=1e-4, atol=0)


def test_a_tokenizer_decodes_with_it_each_image_by_itself(decoder):
    frozen = SimpleNamespace(channels=5, stride=8, encode=nn.Conv2d(3, 5, 8, stride=8).requires_grad_(False))
    net = Tokenizer(frozen, None, None, decoder).eval().requires_grad_(False)
    raw = net.encode(IMAGES)
    whole = net.decode(raw)
    assert whole.shape == IMAGES.shape and whole.min() >= 0 and whole.max() <= 1
    assert torch.equal(net.decode(raw[4:5]), whole[4:5])


def test_it_learns_to_paint_its_latents(decoder):
    """Flat colours, told by three of the latent channels."""
    optimiser = torch.optim.Adam(decoder.parameters(), lr=3e-3)
    colours = torch.rand(32, 3, 1, 1) * 2 - 1
    latents = torch.cat([colours, torch.zeros(32, 2, 1, 1)], 1).expand(-1, -1, 4, 4)
    for _ in range(150):
        loss = (decoder(latents) - colours).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.02
