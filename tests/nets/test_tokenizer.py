import pytest
import torch
from torch import nn

from svgbench.nets.alignment import Alignment
from svgbench.nets.ldm import LdmDecoder
from svgbench.nets.residual import ResidualEncoder
from svgbench.nets.tokenizer import Codec, Tokenizer


class Frozen(nn.Module):
    """An encoder of 5 channels and stride 8, and its own inverse of sorts: stands for any backend's."""

    channels, stride = 5, 8

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 8, stride=8)

    @torch.no_grad()
    def encode(self, images):
        return torch.cat([self.layer(image[None]) for image in images])

    def decode(self, latents, clamp=True):
        images = nn.functional.interpolate(latents[:, :3], scale_factor=8.0)
        return images.clamp(0, 1) if clamp else images


def tokenizer(mode="frozen", channels=3, replacement=None):
    torch.manual_seed(0)
    residual = alignment = None
    if channels:
        residual = ResidualEncoder(channels=channels, layers=1, width=16, heads=2, mlp=16, dropout=0.1, drop=0.1, patch=8, resolution=32)
        alignment = Alignment(mode, feature_channels=5, residual_channels=channels)
    decoder = LdmDecoder(base=8, multipliers=(1, 1, 2, 2), blocks=1, attention=(4,), z_channels=5 + channels, resolution=32)
    other = None if replacement is None else Alignment(replacement, feature_channels=5, residual_channels=channels)
    net = Tokenizer(Frozen(), residual, alignment, decoder, other)
    for each in (alignment, other) if channels else ():
        if each is not None:
            each.freeze(each.statistics_of(net.residual(IMAGES), net.features(IMAGES)))
    return net.eval().requires_grad_(False)


IMAGES = torch.rand(9, 3, 32, 32)


def test_raw_latents_are_the_features_and_then_the_aligned_residual():
    net = tokenizer()
    raw = net.encode(IMAGES)
    assert raw.shape == (9, 8, 4, 4) and net.channels == 8 and net.feature_channels == 5 and net.stride == 8
    assert torch.equal(raw[:, :5], net.features(IMAGES))
    assert torch.equal(raw[:, 5:], net.alignment(net.residual(IMAGES)))


def test_alignment_can_be_overridden_when_encoding():
    net = tokenizer()
    assert torch.equal(net.encode(IMAGES, align="none")[:, 5:], net.residual(IMAGES))
    by_batch = Alignment("batch", feature_channels=5, residual_channels=3)(net.residual(IMAGES), net.features(IMAGES))
    torch.testing.assert_close(net.encode(IMAGES, align="batch")[:, 5:], by_batch)
    with pytest.raises(ValueError, match="has the alignment 'frozen', not 'whiten'"):
        net.encode(IMAGES, align="whiten")


@pytest.mark.parametrize("mode", ["none", "frozen", "channel", "whiten"])
def test_a_latent_of_an_image_does_not_depend_on_its_batch(mode):
    net = tokenizer(mode)
    whole = net.encode(IMAGES)
    assert torch.equal(net.encode(IMAGES[4:5]), whole[4:5])
    assert torch.equal(net.encode(IMAGES.flip(0)).flip(0), whole)


def test_a_reconstruction_does_not_depend_on_its_batch():
    net = tokenizer()
    raw = net.encode(IMAGES)
    whole = net.decode(raw)
    assert whole.shape == IMAGES.shape and whole.min() >= 0 and whole.max() <= 1
    assert torch.equal(net.decode(raw[7:8]), whole[7:8])
    assert torch.equal(net.decode(raw, clamp=False).clamp(0, 1), whole)


def test_without_a_residual_the_latents_are_the_features():
    net = tokenizer(channels=0)
    assert net.channels == 5
    assert torch.equal(net.encode(IMAGES), net.features(IMAGES))
    assert net.residual(IMAGES).shape == (9, 0, 4, 4)


def test_the_frozen_encoder_is_in_neither_parameters_nor_state():
    net = tokenizer()
    names = {*dict(net.named_parameters()), *net.state_dict()}
    assert names and not any("layer" in name for name in names)


def test_a_codec_has_the_same_surface():
    codec = Codec(Frozen())
    raw = codec.encode(IMAGES)
    assert codec.channels == codec.feature_channels == 5 and codec.stride == 8
    assert torch.equal(raw, codec.features(IMAGES))
    assert codec.residual(IMAGES).shape == (9, 0, 4, 4)
    assert torch.equal(codec.decode(raw), codec.decode(raw, clamp=False).clamp(0, 1))


@pytest.mark.parametrize(("trained", "replacement"), [("none", "whiten"), ("frozen", "none"), ("token", "channel")])
def test_another_alignment_changes_latents_and_not_what_the_decoder_gets(trained, replacement):
    plain, replaced, direct = tokenizer(trained), tokenizer(trained, replacement=replacement), tokenizer(replacement)
    assert plain.used_alignment.mode == trained and replaced.used_alignment.mode == replacement
    raw = replaced.encode(IMAGES)
    assert torch.equal(raw, direct.encode(IMAGES)) and (raw - plain.encode(IMAGES)).abs().max() > 0.05
    torch.testing.assert_close(replaced.decode(raw), plain.decode(plain.encode(IMAGES)), rtol=0, atol=2e-4)
    assert torch.equal(replaced.decode(raw[3:4]), replaced.decode(raw)[3:4])
    assert (direct.decode(raw) - plain.decode(plain.encode(IMAGES))).abs().max() > 1e-3  # it matters what the decoder gets
