"""Autoencoders of the releases: official answers where fixtures hold them, independent arithmetic for other sizes."""

from __future__ import annotations

import official
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from interop import error, fixture, to_map
from torchvision.models import VisionTransformer

from svgbench.backends.open import open_encoder
from svgbench.config import cards
from svgbench.config.schema import Autoencoder
from svgbench.errors import BadConfig
from svgbench.nets.vit_decoder import ViTDecoder
from svgbench.releases import autoencoders, codecs
from svgbench.stages.tokenizers import build

AGREEMENT = 1e-4
"""Of the largest number, in fp32."""


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def test_svgs_autoencoder_answers_as_its_authors_code():
    found = fixture("svg_autoencoder")
    model, answers = autoencoders.svg_autoencoder(found.state, found.config).tokenizer, found.tensors
    images = (answers["in.image"] + 1) / 2
    features, residual = model.features(images), model.residual(images)
    unaligned = torch.cat([features, residual], 1)
    aligned = torch.cat([features, model.alignment(residual, features)], 1)  # what encode joins, without the encoder a second time
    assert model.alignment.mode == "batch"
    assert error(residual.flatten(2), answers["out.residual"]) < AGREEMENT
    assert error(unaligned, answers["out.latent_unaligned"]) < AGREEMENT
    assert error(aligned, answers["out.latent"]) < AGREEMENT
    reconstruction = model.decode(answers["out.latent"], clamp=False) * 2 - 1
    assert error(reconstruction, answers["out.reconstruction"]) < AGREEMENT


def test_va_vae_answers_as_its_authors_code():
    found = fixture("vavae_f16d32")
    model, answers = codecs.vavae(found.state, found.config), found.tensors
    assert error(model.encode((answers["in.image"] + 1) / 2), answers["out.mean"]) < AGREEMENT
    assert error(model.decode(answers["out.mean"], clamp=False) * 2 - 1, answers["out.reconstruction"]) < AGREEMENT


def test_raes_decoder_answers_as_its_authors_code():
    found = fixture("rae_decoder_tiny")
    decoder, answers = autoencoders.rae_decoder(found.state, found.config).decoder, found.tensors
    assert error(decoder(to_map(answers["in.tokens"])), answers["out.image"]) < AGREEMENT


def naive_rae(state, latents, *, heads, patch):
    """RAE's decoder by its own names, written out."""
    b, _, h, w = latents.shape

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-12).sqrt()
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    x = linear(latents.flatten(2).transpose(1, 2), "decoder_embed")
    x = torch.cat([state["trainable_cls_token"].expand(b, -1, -1), x], 1) + state["decoder_pos_embed"]
    layer = 0
    while f"decoder_layers.{layer}.output.dense.bias" in state:
        name = f"decoder_layers.{layer}"
        y = norm(x, f"{name}.layernorm_before")
        q, k, v = (
            linear(y, f"{name}.attention.attention.{n}").unflatten(2, (heads, -1)).transpose(1, 2) for n in ("query", "key", "value")
        )
        mixed = torch.softmax(q @ k.transpose(2, 3) / q.shape[3] ** 0.5, -1) @ v
        x = x + linear(mixed.transpose(1, 2).flatten(2), f"{name}.attention.output.dense")
        x = x + linear(F.gelu(linear(norm(x, f"{name}.layernorm_after"), f"{name}.intermediate.dense")), f"{name}.output.dense")
        layer += 1
    patches = linear(norm(x, "decoder_norm"), "decoder_pred")[:, 1:].reshape(b, h, w, patch, patch, 3)
    return torch.einsum("bhwpqc->bchpwq", patches).reshape(b, 3, h * patch, w * patch)


@pytest.mark.parametrize(
    "size, heads",
    [
        ({"channels": 20, "width": 32, "layers": 3, "mlp": 40, "patch": 8, "grid": 4}, 2),
        ({"channels": 768, "width": 768, "layers": 1, "mlp": 3072, "patch": 16, "grid": 4}, None),
        ({"channels": 1024, "width": 1152, "layers": 1, "mlp": 4096, "patch": 16, "grid": 2}, None),
    ],
)
def test_raes_decoders_of_other_sizes_are_their_plain_arithmetic(size, heads):
    state = official.rae(**size)
    latents = torch.randn(2, size["channels"], size["grid"], size["grid"])
    found = autoencoders.rae_decoder(state, heads and {"decoder_num_attention_heads": heads})
    naive = naive_rae(state, latents, heads=heads or {768: 12, 1152: 16}[size["width"]], patch=size["patch"])
    assert error(found.decoder(latents), naive) < AGREEMENT
    assert found.resolution == size["grid"] * size["patch"]


@pytest.mark.parametrize("width, layers, mlp", [(768, 12, 3072), (1024, 24, 4096), (1152, 28, 4096)])
def test_the_released_decoders_b_l_and_xl_have_a_place_for_each_of_their_tensors(width, layers, mlp):
    with torch.device("meta"):
        state = official.rae(channels=768, width=width, layers=layers, mlp=mlp, patch=16, grid=16)
        decoder = ViTDecoder(z_channels=768, resolution=256, stride=16, width=width, layers=layers, heads=16 - 4 * (width == 768), mlp=mlp)
    sources, own = autoencoders.rae_sources(decoder), decoder.state_dict()
    assert {name for names in sources.values() for name in names} == state.keys() - {"decoder_pos_embed"}
    for name, parts in sources.items():
        assert torch.cat([state[part] for part in parts]).shape == own[name].shape


def test_the_settings_of_raes_decoder_build_it_again():
    found = autoencoders.rae_decoder(official.rae(), {"decoder_num_attention_heads": 4})
    again = ViTDecoder(z_channels=20, resolution=found.resolution, stride=8, **found.settings["decoder"]["vit"])
    again.load_state_dict(found.decoder.state_dict())
    latents = torch.randn(1, 20, 4, 4)
    assert torch.equal(again(latents), found.decoder(latents))


def test_the_decoder_inside_a_whole_rae_checkpoint_is_found():
    state = official.rae()
    whole = {f"decoder.{name}": value for name, value in state.items()} | {"encoder.layernorm.weight": torch.ones(3)}
    latents, config = torch.randn(1, 20, 4, 4), {"decoder_num_attention_heads": 4}
    decoders = [autoencoders.rae_decoder(s, config).decoder for s in (state, whole)]
    assert torch.equal(decoders[0](latents), decoders[1](latents))


def test_a_tokenizer_of_raes_decoder_answers_in_colours_not_in_its_encoders_pixel_space():
    encoder = open_encoder(cards.find("mae-tiny", "tiny"))
    config = {"decoder_num_attention_heads": 4}
    state = official.rae(channels=encoder.channels, patch=encoder.stride, grid=2)
    tokenizer, found = autoencoders.rae_tokenizer(state, encoder, config)
    images = torch.rand(2, 3, 2 * encoder.stride, 2 * encoder.stride)
    features = encoder.encode(images)
    released = autoencoders.rae_decoder(state, config).decoder(features)
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(images), clamp=False), released * encoder.std + encoder.mean)
    assert torch.equal(tokenizer.encode(images), features) and found.settings["residual"] == {"channels": 0}
    with pytest.raises(BadConfig, match="decodes 20 channels at stride 8, but 'mae-tiny' gives"):
        autoencoders.rae_tokenizer(official.rae(), encoder, config)


def svg_state(channels=4, base=128, **size):
    """SVG's autoencoder on DINOv3 S/16 at 64 px, with its training's leftovers."""
    ldm = {
        n: v
        for n, v in official.ldm(channels=384 + channels, levels=5, resolution=64, attention=(4,), base=base).items()
        if n.startswith("decoder.")
    }
    leftovers = {"norm_vit.weight": torch.ones(388), "loss.discriminator.main.0.weight": torch.zeros(3)}
    return official.dinov3() | (official.residual(channels=channels, **size) if channels else {}) | ldm | leftovers


def torchvision_residual(state, images, *, width, mlp, channels):
    """SVG's residual encoder by torchvision's own network."""
    vit = VisionTransformer(image_size=64, patch_size=16, num_layers=2, num_heads=8, hidden_dim=width, mlp_dim=mlp, num_classes=1).eval()
    vit.heads = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.GELU(), torch.nn.Linear(width, channels))
    vit.load_state_dict({n.removeprefix("extra_vit."): v for n, v in state.items() if n.startswith("extra_vit.")})
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    x = vit._process_input((images - mean) / std)
    return vit.heads(vit.encoder(torch.cat([vit.class_token.expand(len(x), -1, -1), x], 1))[:, 1:]).transpose(1, 2).unflatten(2, (4, 4))


def test_svgs_autoencoder_of_another_size_is_torchvisions_vit_around_the_card_of_its_encoder():
    state = svg_state(channels=4, width=64, mlp=96)
    found = autoencoders.svg_autoencoder(state)
    images = torch.rand(2, 3, 64, 64)
    naive = torchvision_residual(state, images, width=64, mlp=96, channels=4)
    assert error(found.tokenizer.residual(images), naive) < AGREEMENT
    assert found.card == "dinov3-s16" and found.resolution == 64 and found.tokenizer.channels == 388
    wanted = {"channels": 4, "layers": 2, "width": 64, "heads": 8, "mlp": 96}
    assert found.settings["residual"] == wanted and found.settings["align"] == "batch"
    assert found.settings["decoder"] == {"kind": "ldm", "base": 128, "multipliers": [1] * 5, "blocks": 1, "attention": [4]}
    assert found.tokenizer.encode(images).shape == (2, 388, 4, 4)


def test_svgs_autoencoder_without_a_residual_or_alignment_is_what_its_config_says():
    alone = autoencoders.svg_autoencoder(svg_state(channels=0), {"ddconfig": {"resolution": 64}})
    assert alone.settings["residual"] == {"channels": 0} and alone.tokenizer.channels == 384 and alone.resolution == 64
    yaml = {
        "model": {"params": {"extra_vit_config": {"output_dim": 4, "use_outnorm": False}, "dinoconfig": {"model_name": "dinov3_vits16"}}}
    }
    assert autoencoders.svg_autoencoder(svg_state(channels=4, width=64, mlp=96), yaml).settings["align"] == "none"


@pytest.mark.parametrize("base", [32, 64, 96])
def test_a_release_narrower_than_128_channels_is_normalised_in_ldms_32_groups(base):
    """As diffusers' own network answers, which has 32 groups at any width."""
    state = official.ldm(channels=4, base=base, attention=())
    ours, theirs = codecs.vavae(state), codecs.sdvae(state)
    images, latents = torch.rand(2, 3, 32, 32), torch.randn(2, 4, 8, 8)
    assert error(ours.encode(images), theirs.encode(images)) < AGREEMENT
    assert error(ours.decode(latents, clamp=False), theirs.decode(latents, clamp=False)) < AGREEMENT
    other = codecs.vavae(state, {"norm_num_groups": 16})
    assert error(other.encode(images), ours.encode(images)) > AGREEMENT
    assert error(other.encode(images), codecs.sdvae(state, {"norm_num_groups": 16}).encode(images)) < AGREEMENT


def test_svgs_narrow_decoder_is_built_again_from_its_settings():
    found = autoencoders.svg_autoencoder(svg_state(channels=4, width=64, mlp=96, base=64))
    assert found.settings["decoder"]["groups"] == 32
    settings = Autoencoder.model_validate(found.settings)
    again = build(open_encoder(cards.find(found.card, "paper"), random_weights_seed=0), settings, 64, torch.device("cpu"))
    again.load_state_dict(found.tokenizer.state_dict())
    latents = torch.randn(1, 388, 4, 4)
    assert torch.equal(again.eval().decoder(latents), found.tokenizer.decoder(latents))
    assert "groups" not in Autoencoder().model_dump()["decoder"]


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_raes_decoder_of_half_precision_opens(stored):
    state = {name: value.to(stored) for name, value in official.rae().items()}
    found = autoencoders.rae_decoder(state, {"decoder_num_attention_heads": 4})
    assert all(p.dtype == torch.float32 for p in found.decoder.parameters())


@pytest.mark.parametrize("layout", ["diffusers", "diffusers, old", "ldm"])
def test_sd_vae_of_another_size_answers_as_diffusers_in_each_layout(layout):
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    theirs = AutoencoderKL(block_out_channels=[128, 256], layers_per_block=1, latent_channels=6, norm_num_groups=32, **blocks).eval()
    state = theirs.state_dict()
    if layout == "diffusers, old":
        old = (("to_q.", "query."), ("to_k.", "key."), ("to_v.", "value."), ("to_out.0.", "proj_attn."))
        for new, name in old:
            state = {n.replace(f"attentions.0.{new}", f"attentions.0.{name}"): v for n, v in state.items()}
    if layout == "ldm":
        state = official.ldm(channels=6, attention=())
        theirs = codecs.vavae(state)
    images, latents = torch.rand(2, 3, 32, 32), torch.randn(2, 6, 8, 8)
    codec = codecs.sdvae(state)
    assert codec.channels == 6
    if layout == "ldm":
        assert error(codec.encode(images), theirs.encode(images)) < AGREEMENT
        assert error(codec.decode(latents, clamp=False), theirs.decode(latents, clamp=False)) < AGREEMENT
    else:
        assert error(codec.encode(images), theirs.encode(images * 2 - 1).latent_dist.mean) < AGREEMENT
        assert error(codec.decode(latents, clamp=False) * 2 - 1, theirs.decode(latents).sample) < AGREEMENT


def test_an_ldm_autoencoder_with_attention_and_other_channels_keeps_its_layout():
    state = official.ldm(channels=6, levels=3, resolution=32, attention=(8, 16))
    codec = codecs.vavae(state | {"loss.logvar": torch.zeros(1), "foundation_model.x": torch.zeros(1)}, {"ddconfig": {"resolution": 32}})
    assert codec.channels == 6 and codec.stride == 4
    assert codec.encode(torch.rand(1, 3, 32, 32)).shape == (1, 6, 8, 8)
