"""BACKEND:NAME opens what a library wrote into a directory, weights and all, as the library itself opens it."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import open_clip
import torch
import transformers
from pytest import MonkeyPatch, mark, raises
from safetensors.torch import save_file
from small_cards import CODEC

from svgbench.backends.conformance import examine
from svgbench.backends.from_diffusers import CODECS
from svgbench.backends.open import open_encoder
from svgbench.config.cards import find
from svgbench.errors import BadConfig, BadWeights

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "image_size": 256, "patch_size": 16}
IMAGES = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))


@mark.parametrize("kind", ["DINOv3ViTModel", "Dinov2Model", "Dinov2WithRegistersModel", "SiglipVisionModel", "CLIPVisionModel", "ViTModel"])
@torch.no_grad()
def test_a_directory_that_transformers_wrote(tmp_path: Path, kind: str) -> None:
    """Its last hidden state without prefix tokens, to the last digits (RoPE's periods are rounded here as in the release)."""
    model_class = getattr(transformers, kind)
    torch.manual_seed(1)
    model = model_class(model_class.config_class(**SMALL)).eval()
    model.save_pretrained(tmp_path)
    encoder = open_encoder(find(f"transformers:{tmp_path}", "paper"))
    assert encoder.channels == 64 and encoder.stride == 16 and encoder.card.params_m > 0
    hidden = model((IMAGES - encoder.mean) / encoder.std).last_hidden_state[:, encoder.network.prefix :]
    if kind == "CLIPVisionModel":  # which norms its pooled token only
        hidden = encoder.network.norm(hidden)
    expected = hidden.transpose(1, 2).unflatten(2, (16, 16))
    assert (encoder.encode(IMAGES) - expected).abs().max() < (2e-2 if kind == "DINOv3ViTModel" else 1e-4)


def test_sharded_files_are_read_whole_and_a_missing_shard_is_named(tmp_path: Path) -> None:
    model = transformers.Dinov2Model(transformers.Dinov2Config(**SMALL))
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="100KB")
    shards = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(shards) > 1 and (tmp_path / "many" / "model.safetensors.index.json").is_file()
    whole, parts = (open_encoder(find(f"transformers:{tmp_path / name}", "paper")) for name in ("one", "many"))
    assert torch.equal(whole.encode(IMAGES), parts.encode(IMAGES))
    shards[0].unlink()
    with raises(BadWeights, match=rf"lists {len(shards)} files, of which 1 are missing \({shards[0].name}\); fetch them too"):
        open_encoder(find(f"transformers:{tmp_path / 'many'}", "paper"))


@mark.parametrize("map_", [{"a": "../outside.safetensors"}, {}, None])
def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path, map_: object) -> None:
    transformers.Dinov2Config(**SMALL).save_pretrained(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path.parent / "outside.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": map_}))
    with raises(BadWeights, match="is not an index of weights files"):
        open_encoder(find(f"transformers:{tmp_path}", "paper"))


def test_a_directory_that_diffusers_wrote(tmp_path: Path) -> None:
    model = diffusers.AutoencoderKL(**CODEC.arguments).eval()
    model.save_pretrained(tmp_path / "vae")
    codec = open_encoder(find(f"diffusers:{tmp_path}", "paper"))
    assert codec.card.kind == "codec" and (codec.channels, codec.stride) == (4, 4)
    images = IMAGES[:, :, :32, :32]
    with torch.no_grad():
        torch.testing.assert_close(codec.encode(images), model.encode(images * 2 - 1).latent_dist.mean)


DC = {
    "latent_channels": 4, "attention_head_dim": 8, "encoder_block_types": "ResBlock", "decoder_block_types": "ResBlock",
    "encoder_block_out_channels": (8, 16, 16), "decoder_block_out_channels": (8, 16, 16), "encoder_layers_per_block": (1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1), "encoder_qkv_multiscales": ((), (), ()), "decoder_qkv_multiscales": ((), (), ()),
}  # fmt: skip


def test_a_deep_compression_autoencoder_that_diffusers_wrote(tmp_path: Path) -> None:
    model = diffusers.AutoencoderDC(**DC).eval()
    model.save_pretrained(tmp_path)
    codec = open_encoder(find(f"diffusers:{tmp_path}", "paper"))
    assert codec.card.kind == "codec" and (codec.channels, codec.stride, codec.card.patch) == (4, 4, 4)
    images = IMAGES[:, :, :32, :32]
    with torch.no_grad():
        latents = model.encode(images * 2 - 1).latent
        torch.testing.assert_close(codec.encode(images), latents)
        torch.testing.assert_close(codec.decode(latents), (model.decode(latents).sample / 2 + 0.5).clamp(0, 1))
    assert all(finding.ok for finding in examine(codec, seconds=0.01))


@mark.parametrize("encoder, patch", [("dinov2", 14), ("mae", 16)])
def test_a_representation_autoencoder_that_diffusers_wrote(tmp_path: Path, encoder: str, patch: int) -> None:
    """Its tokens' statistics have the shape of the file, one for each number of the latent in the official ones."""
    decoder = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 64}
    sizes = {"encoder_hidden_size": 64, "encoder_patch_size": patch, "encoder_num_hidden_layers": 1, "encoder_input_size": 16 * patch}
    statistics = {"latents_mean": torch.randn(64, 16, 16).tolist(), "latents_std": (torch.rand(64, 16, 16) + 0.5).tolist()}
    model = diffusers.AutoencoderRAE(encoder_type=encoder, patch_size=16, **sizes, **decoder, **statistics).eval()
    model.save_pretrained(tmp_path)
    card = find(f"diffusers:{tmp_path}", "paper")
    codec = open_encoder(card)
    assert (card.kind, codec.channels, codec.stride, card.pixels.size) == ("codec", 64, 16, 256)
    images = IMAGES[:1]
    with torch.no_grad():
        latents = model.encode(images).latent
        torch.testing.assert_close(codec.encode(images), latents)
        torch.testing.assert_close(codec.decode(latents), model.decode(latents).sample.clamp(0, 1))
    bare = open_encoder(card.model_copy(update={"arguments": {k: v for k, v in card.arguments.items() if not k.startswith("latents_")}}))
    assert torch.equal(bare.encode(images), codec.encode(images))
    with raises(BadConfig, match="takes only images of 256 px, not 224"):
        codec.encode(torch.rand(1, 3, 224, 224))


def test_a_codec_that_diffusers_cannot_build_with_this_transformers_is_one_sentence(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderRAE", "encoder_type": "siglip2"}))

    def fails(**arguments: object) -> None:
        raise AttributeError("'SiglipVisionModel' object has no attribute 'vision_model'")

    monkeypatch.setitem(CODECS, "AutoencoderRAE", (fails, CODECS["AutoencoderRAE"][1]))
    with raises(BadConfig, match=r"this diffusers cannot build 'AutoencoderRAE' with this transformers .*; install versions that fit\."):
        open_encoder(find(f"diffusers:{tmp_path}", "paper"), random_weights_seed=0)


@mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_directory_of_open_clip_gives_its_image_tower(tmp_path: Path, name: str) -> None:
    vision = {"image_size": 224, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 16, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
    model = open_clip.CLIP(**config).eval()
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, tmp_path / name) if name.endswith("safetensors") else torch.save(state, tmp_path / name)
    content = {"model_cfg": config, "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    encoder = open_encoder(find(f"open_clip:{tmp_path}", "paper"))
    assert (encoder.channels, encoder.stride) == (64, 16) and encoder.card.pixels.mean == (0.4, 0.5, 0.6)
    assert encoder.encode(IMAGES).shape == (2, 64, 16, 16)
    with raises(BadConfig, match="takes only images of 256 px, not 224"):
        encoder.encode(torch.rand(1, 3, 224, 224))


def test_a_model_of_open_clip_by_name_and_a_clip_without_weights() -> None:
    card = find("open_clip:ViT-B-32", "paper")
    with raises(BadWeights, match="names no weights"):
        open_encoder(card)
    card = card.model_copy(update={"arguments": {"vision_cfg": {**card.arguments["vision_cfg"], "layers": 1}}})
    encoder = open_encoder(card, random_weights_seed=0)
    assert (encoder.channels, encoder.stride) == (768, 32) and encoder.encode(IMAGES[:1]).shape == (1, 768, 8, 8)
