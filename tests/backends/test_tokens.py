"""Which tokens are the features: any block, several together, behind any form of the final norm; in the card, in a run, in its identity."""

from __future__ import annotations

from typing import Any

import torch
from pytest import mark, raises
from small_cards import CODEC, TINY

from svgbench.backends.open import open_encoder
from svgbench.backends.tokens import combined
from svgbench.config import cards
from svgbench.config.build import build
from svgbench.config.cards import EncoderCard
from svgbench.config.parse import override
from svgbench.config.schema import Features
from svgbench.errors import BadConfig
from svgbench.lab.plan import nodes_of, resolve

DEEP = TINY.model_copy(update={"arguments": {**TINY.arguments, "depth": 4}})
IMAGES = torch.rand(3, 3, 32, 40, generator=torch.Generator().manual_seed(0))


def having(card: EncoderCard, **choice: Any) -> EncoderCard:
    return cards.with_features(card, Features(**choice))


def features(**choice: Any) -> torch.Tensor:
    return open_encoder(having(DEEP, **choice), random_weights_seed=3).encode(IMAGES)


@torch.no_grad()
def by_hand(block: int, norm: str) -> torch.Tensor:
    """Patch tokens of the first ``block`` blocks of the network, one after the other, as a map."""
    encoder = open_encoder(DEEP, random_weights_seed=3)
    model = encoder.network.model
    model.norm.weight.copy_(torch.linspace(0.5, 2, 48))
    x = model.norm_pre(model._pos_embed(model.patch_embed((IMAGES - encoder.mean) / encoder.std)))
    for layer in model.blocks[:block]:
        x = layer(x)
    if norm == "plain":
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + model.norm.eps).sqrt()
    x = model.norm(x) if norm == "affine" else x
    return x[:, model.num_prefix_tokens :].transpose(1, 2).unflatten(2, (4, 5))


@mark.parametrize("norm", ["none", "plain"])
@mark.parametrize(("layer", "block"), [(1, 1), (3, 3), (-1, 4), (-4, 1)])
def test_a_block_is_counted_from_one_or_from_the_end(layer: int, block: int, norm: str) -> None:
    torch.testing.assert_close(features(layers=[layer], norm=norm), by_hand(block, norm), rtol=1e-4, atol=1e-5)


def test_several_blocks_are_summed_or_stand_side_by_side_each_behind_its_norm() -> None:
    single = [features(layers=[layer], norm="plain") for layer in (-1, 2)]
    torch.testing.assert_close(features(layers=[-1, 2], combine="sum", norm="plain"), single[0] + single[1])
    assert torch.equal(features(layers=[-1, 2], combine="concat", norm="plain"), torch.cat(single, dim=1))
    assert torch.equal(features(layers=[-1, 2], combine="last", norm="plain"), single[1])


@mark.parametrize("combine", ["mean", "sum"])
@mark.parametrize("mean_token", [False, True])
def test_blocks_combined_later_are_the_features_and_so_are_some_of_them(combine: str, mean_token: bool) -> None:
    choice = {"combine": combine, "norm": "plain", "mean_token": mean_token}
    encoder = open_encoder(having(DEEP, layers=[1, -2, -1], **choice), random_weights_seed=3)
    blocks = encoder.encode_blocks(IMAGES)
    assert blocks.shape == (3, 3, 48, 4, 5)
    torch.testing.assert_close(combined(blocks, encoder.card.features), encoder.encode(IMAGES))
    some = features(layers=[1, -1], **choice)
    scale = 1.5 if combine == "sum" else 1.0  # a sum of two blocks is scaled to three
    token = blocks[:, -1].mean((2, 3), keepdim=True) if mean_token else torch.zeros(())
    kept = combined(blocks, encoder.card.features, torch.tensor([[True, False, True]] * 3))
    torch.testing.assert_close(kept - token, scale * (some - token), rtol=1e-4, atol=1e-5)


def test_the_mean_of_blocks_and_the_mean_token_are_those_of_raev2() -> None:
    single = [features(layers=[layer], norm="plain") for layer in (-2, -1)]
    mean = (single[0] + single[1]) / 2
    torch.testing.assert_close(features(layers=[-2, -1], combine="mean", norm="plain"), mean)
    token = single[1].mean((2, 3), keepdim=True)
    torch.testing.assert_close(features(layers=[-2, -1], combine="mean", norm="plain", mean_token=True), mean + token)
    torch.testing.assert_close(features(layers=[-1], norm="plain", mean_token=True), single[1] + token)


def test_the_default_is_the_last_block_behind_the_whole_norm() -> None:
    assert torch.equal(features(), features(layers=[4], combine="sum", norm="affine"))
    assert not torch.equal(features(), features(norm="none"))


def test_channels_follow_the_choice() -> None:
    wide = having(DEEP, layers=[-1, -2, -3], combine="concat")
    assert wide.channels == 3 * 48 and having(wide, layers=[-1, -2], combine="sum").channels == 48
    assert open_encoder(wide, random_weights_seed=0).encode(IMAGES).shape == (3, 144, 4, 5)


def test_a_choice_that_cannot_be_had_is_one_sentence() -> None:
    with raises(BadConfig, match=r"no block 5 among 4; name blocks from 1 to 4 or -4 to -1\."):
        features(layers=[5])
    with raises(BadConfig, match=r"\[4, -1\] names a block of 4 twice"):
        features(layers=[4, -1], combine="sum")
    with raises(BadConfig, match="'codec' is a codec"):
        having(CODEC, norm="plain")
    for wrong in ({"layers": [0]}, {"layers": [2, 2]}, {"layers": []}, {"combine": "concat", "mean_token": True}):
        with raises(ValueError):
            Features(**wrong)


def test_the_sum_of_seven_is_a_card() -> None:
    card = cards.find("dinov3-l16-sum7", "paper")
    assert card.features == Features(layers=range(-7, 0), combine="sum", norm="plain") and card.channels == 1024
    network = card.model_copy(update={"arguments": {"depth": 8, "embed_dim": 64, "num_heads": 2}, "channels": 64})
    assert open_encoder(network, random_weights_seed=0).encode(torch.rand(1, 3, 32, 32)).shape == (1, 64, 2, 2)
    assert cards.find("dinov3-l16-raev2", "paper").features == card.features.model_copy(update={"combine": "mean", "mean_token": True})


def test_a_choice_is_in_the_identity_and_the_default_changes_none() -> None:
    assert cards.identity(having(DEEP)) == cards.identity(DEEP)
    assert "mean_token" not in DEEP.features.model_dump(mode="json")
    choices = [
        {"layers": [-2]},
        {"norm": "plain"},
        {"mean_token": True},
        {"layers": [-1, -2], "combine": "sum"},
        {"layers": [-1, -2], "combine": "concat"},
    ]
    assert len({cards.identity(having(DEEP, **choice)) for choice in choices} | {cards.identity(DEEP)}) == 6


def test_a_run_chooses_features_of_its_encoder() -> None:
    def planned(*words: str):
        return resolve(build(override(["encoder.card=mae", *words]), preset="tiny"))

    plain, chosen = planned(), planned("encoder.features={layers: [-1, -3], combine: concat, norm: plain}")
    assert "features" not in plain.model_dump(mode="json")["encoder"]
    assert cards.EncoderCard.model_validate(chosen.encoder.opened).channels == 2 * cards.find("mae", "tiny").channels
    assert plain.encoder.identity != chosen.encoder.identity
    first, second = ({node.stage: node.key for node in nodes_of(config)} for config in (plain, chosen))
    assert first["images"] == second["images"] and first["autoencoder"] != second["autoencoder"]
    again = type(chosen).model_validate(chosen.model_dump(mode="json"))
    assert resolve(again).encoder == chosen.encoder
    with raises(BadConfig, match=r"encoder\.features\.layer is not a field\. Did you mean 'layers'"):
        planned("encoder.features.layer=3")
