"""Weights as their authors publish them: the features must be those of the library's own loading, to the bit or nearly."""

from __future__ import annotations

from pathlib import Path

import diffusers
import timm
import torch
from pytest import mark, raises
from safetensors.torch import save_file
from small_cards import CODEC, TINY, shallow

from svgbench.backends.from_diffusers import OLD_ATTENTION
from svgbench.backends.open import open_encoder, open_network
from svgbench.config.cards import EncoderCard, find
from svgbench.errors import BadWeights


def saved(state: dict[str, torch.Tensor], path: Path) -> Path:
    """A file with these tensors."""
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


def normalised(card: EncoderCard, images: torch.Tensor) -> torch.Tensor:
    """Pixels as the card says."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (card.pixels.mean, card.pixels.std))
    return (images - mean) / std


@mark.parametrize("name", ["dinov3-s16plus", "dinov2-s14", "dinov2reg-s14", "mae-b16", "siglip-b16"])
@torch.no_grad()
def test_features_of_a_timm_file_are_those_of_timm_s_own_loading(name: str, tmp_path: Path) -> None:
    card = shallow(find(name, "paper"))
    torch.manual_seed(1)
    native = timm.create_model(card.model, num_classes=0, depth=1)  # at the size the weights were trained at
    path = saved(native.state_dict(), tmp_path / "model.safetensors")
    side = 224 if "14" in name else 256
    source = {"file": str(path)}
    more = {"act_layer": "gelu_tanh"} if "siglip" in name else {}  # as the authors have it; timm's own default is the exact GELU
    theirs = timm.create_model(card.model, pretrained=True, pretrained_cfg_overlay=source, num_classes=0, depth=1, img_size=side, **more)
    theirs.eval()
    if "dinov3" in name:
        theirs.rope.periods.copy_(theirs.rope.periods.bfloat16().float())
    images = torch.rand(1, 3, side, side)
    card = card.model_copy(update={"stride": theirs.patch_embed.patch_size[0], "pixels": card.pixels.model_copy(update={"scale": "1/1"})})
    tokens = theirs.forward_features(normalised(card, images))[:, theirs.num_prefix_tokens :]
    features = open_encoder(card, weights=path).encode(images)
    torch.testing.assert_close(features, tokens.transpose(1, 2).reshape(features.shape), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_meta_s_dinov3_file_brings_its_biases_and_its_periods(tmp_path: Path) -> None:
    card = shallow(find("dinov3-s16plus", "paper"))
    torch.manual_seed(2)
    theirs = timm.create_model("vit_small_plus_patch16_dinov3_qkvb", num_classes=0, depth=1).eval()
    for parameter in theirs.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    theirs.rope.periods.mul_(1.01)
    state = {name: value for name, value in theirs.state_dict().items() if not name.endswith(("q_bias", "v_bias"))}
    for old, new in (("reg_token", "storage_tokens"), ("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma"), ("mlp.fc1_g", "mlp.w1"),
                     ("mlp.fc1_x", "mlp.w2"), ("mlp.fc2", "mlp.w3")):  # fmt: skip
        state = {name.replace(old, new): value for name, value in state.items()}
    attention = theirs.blocks[0].attn
    bias = torch.cat([attention.q_bias, torch.zeros_like(attention.q_bias), attention.v_bias])
    state |= {"mask_token": torch.zeros(1, 384), "rope_embed.periods": theirs.rope.periods, "blocks.0.attn.qkv.bias": bias,
              "blocks.0.attn.qkv.bias_mask": (bias != 0).float()}  # fmt: skip
    path = tmp_path / "dinov3_vits16plus_pretrain.pth"
    torch.save(state, path)
    images = torch.rand(1, 3, 256, 256)
    tokens = theirs.forward_features(normalised(card, images))[:, 5:]
    features = open_encoder(card, weights=path).encode(images)
    torch.testing.assert_close(features, tokens.transpose(1, 2).reshape(features.shape), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_meta_s_dinov2_file_loses_its_mask_token_only(tmp_path: Path) -> None:
    card = shallow(find("dinov2-s14", "paper"))
    theirs = timm.create_model(card.model, num_classes=0, depth=1, img_size=224).eval()
    path = tmp_path / "dinov2_vits14_pretrain.pth"
    torch.save({**theirs.state_dict(), "mask_token": torch.zeros(1, 384)}, path)
    images = torch.rand(1, 3, 256, 256)
    plain = open_encoder(card, weights=saved(theirs.state_dict(), tmp_path / "model.safetensors"))
    assert torch.equal(open_encoder(card, weights=path).encode(images), plain.encode(images))


def test_sd_vae_file_in_old_names_is_the_same_codec(tmp_path: Path) -> None:
    images = torch.rand(2, 3, 32, 32)
    model = open_network(CODEC, seed=4).model
    diffusers.AutoencoderKL.save_pretrained(model, tmp_path / "today")
    today = open_encoder(CODEC, weights=tmp_path / "today" / "diffusion_pytorch_model.safetensors")
    old = {}
    for name, value in model.state_dict().items():
        for before, after in OLD_ATTENTION.items():
            name = name.replace(after, before) if ".attentions." in name else name
        old[name] = value
    assert any(".proj_attn." in name for name in old)
    encoder = open_encoder(CODEC, weights=saved(old, tmp_path / "old.safetensors"))
    latents = today.encode(images)
    assert torch.equal(encoder.encode(images), latents) and torch.equal(encoder.decode(latents), today.decode(latents))


def test_an_ldm_checkpoint_gives_the_same_codec_through_diffusers_and_through_our_own_layers(tmp_path: Path) -> None:
    arguments = {"embed_dim": 4, "z_channels": 4, "base": 128, "multipliers": [1, 1, 2], "blocks": 1, "attention": [], "resolution": 32}
    ours = CODEC.model_copy(update={"backend": "checkpoint", "model": "ldm-kl", "arguments": arguments})
    theirs = CODEC.model_copy(update={"arguments": {**CODEC.arguments, "block_out_channels": [128, 128, 256], "norm_num_groups": 32}})
    network = open_network(ours, seed=5)
    state = {**network.model.state_dict(), "loss.discriminator.main.0.weight": torch.zeros(3), "loss.logvar": torch.zeros(())}
    path = tmp_path / "vae.ckpt"
    torch.save({"state_dict": state, "global_step": 7}, path)
    images = torch.rand(3, 3, 32, 32)
    first, second = open_encoder(ours, weights=path), open_encoder(theirs, weights=path)
    latents = first.encode(images)
    torch.testing.assert_close(second.encode(images), latents, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second.decode(latents, clamp=False), first.decode(latents, clamp=False), rtol=1e-4, atol=1e-5)


def test_mae_s_release_opens_with_and_without_its_decoder(tmp_path: Path) -> None:
    card = shallow(find("mae-b16", "paper"))
    state = timm.create_model(card.model, num_classes=0, depth=1).state_dict()
    torch.save({"model": state}, tmp_path / "mae_pretrain_vit_base.pth")
    decoder = {f"decoder_{name}.weight": torch.zeros(2) for name in ("embed", "blocks.0.norm1", "pred")}
    torch.save({"model": {**state, **decoder, "mask_token": torch.zeros(1, 1, 2)}}, tmp_path / "mae_pretrain_vit_base_full.pth")
    images = torch.rand(1, 3, 256, 256)
    first, second = (open_encoder(card, weights=path).encode(images) for path in sorted(tmp_path.iterdir()))
    assert torch.equal(first, second)


def test_sd_vae_opens_from_directories_and_out_of_a_whole_model(tmp_path: Path) -> None:
    arguments = {"embed_dim": 4, "z_channels": 4, "base": 128, "multipliers": [1, 1, 2], "blocks": 1, "attention": [], "resolution": 32}
    ldm = CODEC.model_copy(update={"backend": "checkpoint", "model": "ldm-kl", "arguments": arguments})
    state = open_network(ldm, seed=5).model.state_dict()
    card = CODEC.model_copy(update={"arguments": {**CODEC.arguments, "block_out_channels": [128, 128, 256], "norm_num_groups": 32}})
    whole = {f"first_stage_model.{name}": value for name, value in state.items()} | {"model.diffusion_model.out.0.weight": torch.zeros(2)}
    torch.save({"state_dict": whole}, tmp_path / "sd-v1.ckpt")
    averaged = {**state, "model_ema.decay": torch.zeros(()), "loss.logvar": torch.zeros(())}
    torch.save({"state_dict": averaged}, tmp_path / "vae-ft-mse.ckpt")
    codec = open_encoder(card, weights=tmp_path / "sd-v1.ckpt")
    codec.network.model.save_pretrained(tmp_path / "pipeline" / "vae")
    images = torch.rand(1, 3, 32, 32)
    places = (tmp_path / "vae-ft-mse.ckpt", tmp_path / "pipeline", tmp_path / "pipeline" / "vae")
    assert all(torch.equal(open_encoder(card, weights=place).encode(images), codec.encode(images)) for place in places)


def test_va_vae_s_release_loses_its_teacher_only(tmp_path: Path) -> None:
    card = find("va-vae-f16d32", "paper")
    small = {"embed_dim": 32, "z_channels": 32, "base": 32, "multipliers": [1, 1, 1, 1, 2], "blocks": 1, "attention": [], "resolution": 64}
    card = card.model_copy(update={"arguments": small})
    state = open_network(card, seed=6).model.state_dict()
    training = {"foundation_model.model.cls_token": torch.zeros(3), "linear_proj.weight": torch.zeros(3), "loss.logvar": torch.zeros(())}
    torch.save({"state_dict": {**state, **training}}, tmp_path / "vavae.pt")
    images = torch.rand(1, 3, 64, 64)
    codec = open_encoder(card, weights=tmp_path / "vavae.pt")
    assert torch.equal(codec.encode(images), open_encoder(card, random_weights_seed=6).encode(images))
    assert codec.decode(codec.encode(images)).shape == images.shape


def test_mar_s_codec_opens_from_the_authors_file(tmp_path: Path) -> None:
    small = {"embed_dim": 16, "z_channels": 16, "base": 32, "multipliers": [1, 1, 1, 1, 2], "blocks": 1, "attention": [], "resolution": 64}
    card = find("kl-16", "paper").model_copy(update={"arguments": small})
    torch.save({"model": open_network(card, seed=6).model.state_dict()}, tmp_path / "kl16.ckpt")
    images = torch.rand(1, 3, 64, 64)
    codec = open_encoder(card, weights=tmp_path / "kl16.ckpt")
    assert torch.equal(codec.encode(images), open_encoder(card, random_weights_seed=6).encode(images))
    with raises(BadWeights, match="--weights"):
        open_encoder(card)


@mark.parametrize("library", ["timm", "diffusers", "checkpoint", "transformers", "open_clip"])
def test_a_file_of_another_kind_is_refused_with_what_it_looks_like_by_every_backend(tmp_path: Path, library: str) -> None:
    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
    ldm = {"embed_dim": 4, "z_channels": 4, "base": 32, "multipliers": [1, 2], "blocks": 1, "attention": [], "resolution": 32}
    tower = {"vision_cfg": {"layers": 1, "width": 64, "image_size": 32, "patch_size": 8}}
    card = {
        "timm": TINY, "diffusers": CODEC,
        "checkpoint": CODEC.model_copy(update={"backend": "checkpoint", "model": "ldm-kl", "arguments": ldm, "stride": 2}),
        "transformers": TINY.model_copy(update={"backend": "transformers", "model": "Dinov2Model", "arguments": tiny, "channels": 32}),
        "open_clip": TINY.model_copy(update={"backend": "open_clip", "model": "ViT-B-32", "arguments": tower, "channels": 64}),
    }[library]  # fmt: skip
    files = {
        "SiT or DiT": ["x_embedder.proj.weight", "t_embedder.mlp.0.weight", "blocks.0.adaLN_modulation.1.weight"],
        "DINOv3 as Meta publishes it": ["storage_tokens", "rope_embed.periods", "blocks.0.ls1.gamma", "mask_token"],
        "DINOv2 with registers as Meta publishes it": ["register_tokens", "mask_token", "blocks.0.ls1.gamma"],
        "an autoencoder in LDM's layout": ["encoder.down.0.block.0.x", "decoder.up.0.block.0.x", "post_quant_conv.bias"],
    }
    for words, names in files.items():
        if library == "checkpoint" and "LDM" in words:
            continue
        torch.save({name: torch.zeros(1, 2) for name in names}, tmp_path / "other.pth")
        with raises(BadWeights, match=f"it looks like {words}.*give a file of this architecture") as error:
            open_encoder(card, weights=tmp_path / "other.pth")
        assert "\n" not in str(error.value)
