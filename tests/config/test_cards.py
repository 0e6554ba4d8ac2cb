"""Cards: every one parses, families have members, names find them, identities follow what decides the numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from pytest import MonkeyPatch, mark, raises

from svgbench.config import cards
from svgbench.errors import BadConfig, BadWeights, UnknownName

CARDS = cards.load_cards()
FULL = {
    "dinov3-s16", "dinov3-s16plus", "dinov3-b16", "dinov3-l16", "dinov2-s14", "dinov2-b14", "dinov2-l14", "dinov2reg-s14",
    "dinov2reg-b14", "dinov2reg-l14", "mae-b16", "mae-l16", "siglip-b16", "siglip2-b16", "sd-vae-ema", "sd-vae-mse",
    "va-vae-f16d32",
}  # fmt: skip


def test_the_papers_encoders_have_cards() -> None:
    assert set(CARDS) >= FULL


@mark.parametrize("name", sorted(CARDS))
def test_every_card_is_complete(name: str) -> None:
    card = CARDS[name]
    assert card.name == name and card.family in cards.FAMILIES
    assert card.channels > 0 and card.params_m > 0 and card.licence and card.origin
    side, shown = map(int, card.pixels.scale.split("/"))
    assert card.pixels.size % card.stride == 0 and card.pixels.size * side % shown == 0
    if card.preset in ("tiny", "mini"):
        assert name == f"{card.family}-{card.preset}" and card.weights.file and card.trained_by
    else:
        assert (card.weights.hub or "--weights" in card.note) and card.pixels.size == 256


@mark.parametrize("family", cards.FAMILIES)
@mark.parametrize("preset", ["small", "paper"])
def test_a_family_means_one_full_size_member(family: str, preset: str) -> None:
    card = cards.find(family, preset)
    assert card.family == family and card.preset == "paper"
    assert sum(other.family == family and other.preset == "paper" for other in CARDS.values()) == 1


def test_the_tiny_preset_picks_the_tiny_member_and_full_names_pick_exactly() -> None:
    for card in CARDS.values():
        if card.preset == "tiny":
            assert cards.find(card.family, "tiny") == card
    assert cards.find("dinov3-l16", "tiny").name == "dinov3-l16"


def test_unknown_names_offer_their_neighbours() -> None:
    with raises(UnknownName, match=r"no encoder card named 'dinov3-s16-plus'\. Did you mean 'dinov3-s16plus'"):
        cards.find("dinov3-s16-plus", "paper")
    with raises(UnknownName, match="Did you mean 'siglip'"):
        cards.find("siglib", "tiny")


def test_backend_and_name_make_a_card_where_the_name_says_enough() -> None:
    card = cards.find("timm:vit_large_patch14_reg4_dinov2.lvd142m", "paper")
    assert (card.stride, card.pixels.scale, card.weights.hub) == (16, "14/16", "timm/vit_large_patch14_reg4_dinov2.lvd142m")
    assert cards.find("timm:vit_base_patch32_224", "paper").stride == 32
    with raises(BadConfig, match="does not contain a patch size"):
        cards.find("timm:resnet50", "paper")
    with raises(BadConfig, match=r"write a card for it \(--shelf DIR\) or use timm, open_clip"):
        cards.find("jax:someone", "paper")
    with raises(BadConfig, match="is a file, whose architecture is not known; choose its card"):
        cards.find("checkpoint:vae.ckpt", "paper")
    with raises(BadConfig, match="names no model"):
        cards.find("timm:", "paper")


def configured(folder: Path, content: Any, name: str = "config.json") -> Path:
    """A directory with a configuration file."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_a_directory_of_transformers_makes_a_card(tmp_path: Path) -> None:
    content = {"architectures": ["Dinov2Model"], "model_type": "dinov2", "hidden_size": 768, "dtype": "x", "image_size": 518}
    card = cards.find(f"transformers:{configured(tmp_path, content)}", "paper")
    assert (card.backend, card.model, card.stride, card.pixels.scale) == ("transformers", "Dinov2Model", 16, "14/16")
    assert card.arguments == {"hidden_size": 768, "image_size": 224, "patch_size": 14} and card.weights.file == str(tmp_path)
    vision = {"model_type": "siglip_vision_model", "image_size": 256}
    whole = {"model_type": "siglip", "text_config": {"hidden_size": 3}, "vision_config": vision}
    card = cards.find(f"transformers:{configured(tmp_path / 'siglip', whole)}", "paper")
    assert (card.model, card.stride, card.arguments) == ("SiglipVisionModel", 16, {"patch_size": 16, "image_size": 256})


def test_a_directory_of_diffusers_makes_a_codec_s_card(tmp_path: Path) -> None:
    content = {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "latent_channels": 4}
    for folder in (configured(tmp_path / "vae", content), configured(tmp_path / "whole", content, "vae/config.json")):
        card = cards.find(f"diffusers:{folder}", "paper")
        assert (card.kind, card.stride, card.patch, card.model) == ("codec", 8, 2, "AutoencoderKL")
        assert "_class_name" not in card.arguments and card.arguments["latent_channels"] == 4


def test_models_of_open_clip_make_cards_by_its_own_names_and_by_directories(tmp_path: Path) -> None:
    card = cards.find("open_clip:ViT-B-16-SigLIP-256", "paper")
    assert (card.stride, card.weights.hub, card.pixels.scale) == (16, "timm/ViT-B-16-SigLIP-256", "1/1")
    card = cards.find("open_clip:ViT-L-14", "paper")
    assert (card.stride, card.pixels.scale, card.arguments["vision_cfg"]) == (16, "14/16", {"image_size": 224})
    with raises(UnknownName, match=r"Did you mean .*'ViT-L-14'"):
        cards.find("open_clip:ViT-L-15", "paper")
    config = {"embed_dim": 8, "vision_cfg": {"layers": 2, "patch_size": 32}}
    content = {"model_cfg": config, "preprocess_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}}
    card = cards.find(f"open_clip:{configured(tmp_path, content, 'open_clip_config.json')}", "paper")
    assert card.stride == 32 and card.pixels.mean == (0.1, 0.1, 0.1) and card.arguments["vision_cfg"]["layers"] == 2


def test_what_cannot_be_read_of_a_foreign_model_is_one_sentence(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with raises(BadWeights, match=r"config.json of 'transformers:someone/thing' is not in the cache and HF_HUB_OFFLINE forbids"):
        cards.find("transformers:someone/thing", "paper")
    with raises(BadConfig, match="neither a directory here nor a repository"):
        cards.find("transformers:./nowhere", "paper")
    with raises(BadConfig, match=r"holds no config\.json"):
        cards.find(f"transformers:{tmp_path}", "paper")
    with raises(BadConfig, match="is a 'bert', but from transformers svgbench opens only"):
        cards.find(f"transformers:{configured(tmp_path / 'a', {'model_type': 'bert'})}", "paper")
    with raises(BadConfig, match="cannot be read as a configuration"):
        cards.find(f"transformers:{configured(tmp_path / 'b', '{')}", "paper")
    with raises(BadConfig, match="holds list"):
        cards.find(f"diffusers:{configured(tmp_path / 'c', [1])}", "paper")
    with raises(BadConfig, match=r"its config\.json has no encoder_block_out_channels"):
        cards.find(f"diffusers:{configured(tmp_path / 'e', {'_class_name': 'AutoencoderDC'})}", "paper")
    with raises(BadConfig, match="is a 'VQModel', but from diffusers svgbench opens only AutoencoderKL, AutoencoderDC, AutoencoderRAE"):
        cards.find(f"diffusers:{configured(tmp_path / 'd', {'_class_name': 'VQModel'})}", "paper")


def test_a_user_s_shelf_adds_cards_and_replaces_none(tmp_path: Path) -> None:
    content = CARDS["mae-b16"].model_dump(mode="json", exclude={"name"}, exclude_none=True)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    assert cards.find("mine", "paper", tmp_path).model == "vit_base_patch16_224.mae"
    assert cards.find("mae", "paper", tmp_path).name == "mae-b16"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**content, "chanels": 3}))
    with raises(BadConfig, match=r"mine\.yaml: chanels is not a field\. Did you mean 'channels'"):
        cards.find("mine", "paper", tmp_path)
    (tmp_path / "mine.yaml").rename(tmp_path / "mae-b16.yaml")
    with raises(BadConfig, match="is taken by"):
        cards.find("mae-b16", "paper", tmp_path)


def test_identity_follows_opening_and_weights_and_not_words(tmp_path: Path) -> None:
    card = CARDS["dinov3-s16plus"]
    identity = cards.identity(card)
    assert cards.identity(card.model_copy(update={"note": "x", "licence": "y", "name": "z", "params_m": 1.0})) == identity
    changed = [
        {"arguments": {"img_size": 224}},
        {"pixels": card.pixels.model_copy(update={"scale": "14/16"})},
        {"weights": card.weights.model_copy(update={"revision": "0" * 40})},
        {"weights": card.weights.model_copy(update={"sha256": "0" * 64})},
        {"weights": card.weights.model_copy(update={"hub": "someone/else"})},
    ]
    identities = {cards.identity(card.model_copy(update=update)) for update in changed}
    assert len(identities | {identity}) == len(changed) + 1
    file = tmp_path / "a.pth"
    file.write_bytes(b"one")
    first = cards.identity(card, file)
    renamed = file.rename(tmp_path / "b.pth")
    assert cards.identity(card, renamed) == first != identity
    renamed.write_bytes(b"two")
    assert cards.identity(card, renamed) != first
    with raises(BadWeights, match="cannot be read"):
        cards.identity(card, tmp_path / "none.pth")


def test_cards_are_read_without_torch() -> None:
    read = "from svgbench.config import cards; cards.identity(cards.find('dinov3', 'paper'))"
    code = f"import sys, svgbench; {read}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
