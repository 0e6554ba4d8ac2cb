"""Cards: every one parses, families have members, names find them, identities follow what decides the numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml
from pytest import mark, raises

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
    if card.preset == "tiny":
        assert name == f"{card.family}-tiny" and card.weights.file and card.trained_by
    else:
        assert card.weights.hub and card.pixels.size == 256


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
    with raises(BadConfig, match="does not say its patch size"):
        cards.find("timm:resnet50", "paper")
    with raises(BadConfig, match="write a card for it"):
        cards.find("diffusers:someone/vae", "paper")


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
