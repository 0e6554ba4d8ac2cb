"""Encoders through the one path of cards: what they are, what they see, and that a latent belongs to its image alone."""

from __future__ import annotations

import timm
import torch
from pytest import fixture, mark, raises
from small_cards import CODEC, TINY, shallow

from svgbench.backends import open as backends
from svgbench.backends.network import Network
from svgbench.backends.open import open_encoder, open_network
from svgbench.config.cards import EncoderCard, find, load_cards
from svgbench.errors import BadConfig, BadInput, UnknownName

CARDS = load_cards()


@fixture
def images() -> torch.Tensor:
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@mark.parametrize("name", sorted(CARDS))
def test_every_card_builds_what_it_says(name: str) -> None:
    card = CARDS[name]
    with torch.device("meta"):
        network = open_network(card)
    backends._completed(card, network)
    parameters = sum(p.numel() for p in network.model.parameters()) / 1e6
    assert abs(parameters - card.params_m) < max(0.06, 0.025 * card.params_m)  # position embeddings are counted at the published size


@mark.parametrize("name", [name for name, card in CARDS.items() if card.backend == "timm" and card.preset != "tiny" and "l1" not in name])
def test_full_size_members_see_256_px_as_a_16_by_16_grid(name: str) -> None:
    encoder = open_encoder(shallow(CARDS[name]), random_weights_seed=0)
    assert encoder.encode(torch.rand(1, 3, 256, 256)).shape == (1, CARDS[name].channels, 16, 16)


@mark.parametrize("name", [name for name, card in CARDS.items() if card.backend == "timm" and card.preset != "tiny"])
def test_pixel_statistics_are_those_the_library_states(name: str) -> None:
    settings = timm.models.get_pretrained_cfg(CARDS[name].model)
    assert (CARDS[name].pixels.mean, CARDS[name].pixels.std) == (tuple(settings.mean), tuple(settings.std))


@mark.parametrize("card", [TINY, CODEC], ids=["transformer", "codec"])
@mark.parametrize("threads", [1, 2])
def test_latent_of_an_image_does_not_depend_on_its_batch(card: EncoderCard, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        encoder = open_encoder(card, random_weights_seed=0)
        images = torch.rand(40, 3, 32, 32)
        together = encoder.encode(images)
        order = torch.randperm(40)
        assert torch.equal(encoder.encode(images[order]), together[order])
        for index in (0, 17, 39):
            assert torch.equal(encoder.encode(images[index : index + 1])[0], together[index])
        assert torch.equal(encoder.encode(images[3:10]), together[3:10])
        if card.kind == "codec":
            assert torch.equal(encoder.decode(together[7:9]), encoder.decode(together)[7:9])
    finally:
        torch.set_num_threads(before)


def test_an_empty_batch_gives_an_empty_latent() -> None:
    assert open_encoder(TINY, random_weights_seed=0).encode(torch.rand(0, 3, 32, 32)).shape == (0, 48, 4, 4)


def test_encoder_normalises_its_own_pixels_and_leaves_out_prefix_tokens(images: torch.Tensor) -> None:
    encoder = open_encoder(TINY, random_weights_seed=0)
    model = encoder.network.model
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (TINY.pixels.mean, TINY.pixels.std))
    with torch.no_grad():
        tokens = model.forward_features((images - mean) / std)[:, model.num_prefix_tokens :]
    torch.testing.assert_close(encoder.encode(images), tokens.transpose(1, 2).reshape(5, 48, 4, 4))


def test_a_scale_shows_the_network_smaller_images() -> None:
    card = TINY.model_copy(update={"stride": 16, "pixels": TINY.pixels.model_copy(update={"scale": "8/16", "size": 64})})
    encoder = open_encoder(card, random_weights_seed=0)
    images = torch.rand(2, 3, 64, 64)
    small = torch.nn.functional.interpolate(images, size=32, mode="bicubic", antialias=True).clamp(0, 1)
    plain = open_encoder(TINY, random_weights_seed=0)
    assert torch.equal(encoder.encode(images), plain.encode(small))


def test_encoders_are_frozen_for_ever(images: torch.Tensor) -> None:
    encoder = open_encoder(TINY, random_weights_seed=0)
    torch.nn.Sequential(encoder).train()
    assert not encoder.network.model.training and not any(p.requires_grad for p in encoder.parameters())
    pixels = images.clone().requires_grad_(True)
    assert not encoder.encode(pixels).requires_grad


def test_codec_decodes_to_images_and_features_refuse(images: torch.Tensor) -> None:
    codec = open_encoder(CODEC, random_weights_seed=0)
    latents = codec.encode(images)
    decoded = codec.decode(latents)
    assert latents.shape == (5, 4, 8, 8) and decoded.shape == images.shape
    assert decoded.min() >= 0 and decoded.max() <= 1
    torch.testing.assert_close(codec.decode(latents, clamp=False).clamp(0, 1), decoded)
    with raises(BadInput, match="gives features and has no decoder"):
        open_encoder(TINY, random_weights_seed=0).decode(latents)


def test_codec_latent_is_the_posterior_mean(images: torch.Tensor) -> None:
    codec = open_encoder(CODEC, random_weights_seed=0)
    with torch.no_grad():
        mean = codec.network.model.encode(images * 2 - 1).latent_dist.mean
    torch.testing.assert_close(codec.encode(images), mean)


def test_other_sizes_than_the_card_s_are_seen_when_the_patch_divides_them() -> None:
    encoder = open_encoder(TINY, random_weights_seed=0)
    assert encoder.encode(torch.rand(2, 3, 40, 64)).shape == (2, 48, 5, 8)
    with raises(BadConfig, match=r"images of 250 px cannot be divided into the 8 px patches of 'small'; use 248 or 256\."):
        encoder.encode(torch.rand(1, 3, 256, 250))
    with raises(BadConfig, match=r"use 8\."):
        encoder.encode(torch.rand(1, 3, 3, 8))


def test_images_of_another_kind_are_refused() -> None:
    encoder = open_encoder(TINY, random_weights_seed=0)
    for wrong in (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.rand(3, 32, 32), torch.rand(1, 1, 32, 32)):
        with raises(BadInput, match="must be floats"):
            encoder.encode(wrong)


def test_opening_leaves_the_caller_s_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = open_encoder(TINY, random_weights_seed=1)
    assert torch.equal(torch.rand(4), expected)
    second = open_encoder(TINY, random_weights_seed=1)
    other = open_encoder(TINY, random_weights_seed=2)
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(first.encode(images), second.encode(images)) and not torch.equal(first.encode(images), other.encode(images))


def test_any_timm_transformer_opens_by_its_name() -> None:
    card = find("timm:vit_tiny_patch16_224.augreg_in21k", "paper")
    encoder = open_encoder(shallow(card), random_weights_seed=0)
    assert encoder.channels == 192 and encoder.stride == 16 and encoder.card.params_m > 0
    assert encoder.card.pixels.mean == (0.5, 0.5, 0.5)
    assert encoder.encode(torch.rand(1, 3, 64, 64)).shape == (1, 192, 4, 4)


def test_a_card_that_disagrees_with_its_network_is_refused() -> None:
    with raises(BadConfig, match="has 64 channels at stride 8, but the network of timm has 48 channels at stride 8"):
        open_encoder(TINY.model_copy(update={"channels": 64}), random_weights_seed=0)
    with raises(BadConfig, match="timm cannot build"):
        open_encoder(TINY.model_copy(update={"arguments": {"petals": 5}}), random_weights_seed=0)


def test_unknown_backends_and_models_offer_their_neighbours() -> None:
    with raises(UnknownName, match=r"no backend named 'tim'\. Did you mean 'timm'"):
        open_encoder(TINY.model_copy(update={"backend": "tim"}), random_weights_seed=0)
    with raises(UnknownName, match="Did you mean 'vit_small_patch14_dinov2'"):
        open_encoder(TINY.model_copy(update={"model": "vit_small_patch14_dinov22"}), random_weights_seed=0)
    with raises(UnknownName, match="AutoencoderKL"):
        open_encoder(CODEC.model_copy(update={"model": "AutoencoderKI"}), random_weights_seed=0)


class Averages(Network):
    """A plug-in's network: mean colour of 8 px squares."""

    channels, stride = 3, 8

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.AvgPool2d(8)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model(pixels)


class Point:
    """An installed package's entry point."""

    name = "averages"

    def load(self):
        return lambda card, state: Averages()


def test_packages_add_backends_by_an_entry_point(monkeypatch, images: torch.Tensor) -> None:
    monkeypatch.setattr(backends, "entry_points", lambda group: [Point()] if group == "svgbench.backends" else [])
    card = TINY.model_copy(update={"backend": "averages", "channels": 3})
    encoder = open_encoder(card, random_weights_seed=0)
    mean = torch.tensor(card.pixels.mean).view(3, 1, 1)
    std = torch.tensor(card.pixels.std).view(3, 1, 1)
    torch.testing.assert_close(encoder.encode(images), torch.nn.functional.avg_pool2d((images - mean) / std, 8))
