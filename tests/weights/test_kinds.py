"""What a file holds is told by its names: every official layout by its own words, and a wrong file by what it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from pytest import mark, raises, skip

from svgbench.errors import BadWeights
from svgbench.nets.sit import SiT
from svgbench.weights import files as weights

INTEROP = Path(os.environ.get("SVGBENCH_INTEROP", Path(__file__).parents[3] / "shared" / "interop"))
FIXTURES = {
    "ddt_tiny": "(ddt)", "dinov3_vits16plus": "DINOv3 as Meta", "dit_s2": "(sit, dit)", "sit_s2": "(sit, dit)", "repa_sit_tiny": "(repa)",
    "lightningdit_tiny": "(lightningdit)", "rae_decoder_tiny": "(rae-decoder)", "svg_autoencoder": "(svg-autoencoder)",
    "svg_dit_tiny": "(svg-dit)", "vavae_f16d32": "(vavae, sdvae)",
}  # fmt: skip
TRANSFORMER = ["blocks.0.attn.qkv.weight", "blocks.0.attn.proj.weight", "patch_embed.proj.weight", "norm.weight"]


@mark.parametrize("name", sorted(FIXTURES))
def test_the_official_models_of_the_fixtures_are_recognised(name: str) -> None:
    path = INTEROP / f"{name}.json"
    if not path.is_file():
        skip(f"{path} is not here; SVGBENCH_INTEROP names the folder of the fixtures")
    found = weights.looks_like(json.loads(path.read_text())["parameters"])
    assert found is not None and FIXTURES[name] in found


@mark.parametrize(
    ("names", "words"),
    [
        (["cls_token", "pos_embed", "mask_token", "blocks.0.ls1.gamma"], "DINOv2 as Meta publishes it"),
        (["cls_token", "pos_embed", "mask_token", "register_tokens", "blocks.0.ls1.gamma"], "DINOv2 with registers as Meta publishes it"),
        (["cls_token", "pos_embed", "reg_token", "blocks.0.ls1.gamma"], "DINOv2 with registers in timm's names"),
        (["cls_token", "pos_embed", "blocks.0.ls1.gamma"], "DINOv2 in timm's names"),
        (["cls_token", "reg_token", "blocks.0.gamma_1"], "DINOv3 in timm's names"),
        (["cls_token", "pos_embed"], "a plain vision transformer, as MAE or timm write it"),
        (["cls_token", "pos_embed", "decoder_embed.weight", "decoder_blocks.0.norm1.weight"], "MAE with its decoder"),
        (["pos_embed", "attn_pool.latent"], "SigLIP in timm's names"),
    ],
)
def test_transformers_that_share_most_names_are_as_output_error(names: list[str], words: str) -> None:
    assert words in str(weights.looks_like([*TRANSFORMER, *names]))


def test_our_own_networks_are_recognised_and_strangers_are_not() -> None:
    model = SiT(channels=4, grid=4, width=16, depth=1, heads=2, classes=3)
    assert weights.looks_like(model.state_dict()) == "a transformer that svgbench trained"
    assert weights.looks_like(["weight", "bias"]) is None and weights.looks_like([]) is None


def test_a_file_of_another_kind_is_refused_with_what_it_looks_like() -> None:
    state = {name: torch.zeros(1) for name in (*TRANSFORMER, "storage_tokens", "blocks.0.ls1.gamma")}
    layer = torch.nn.Linear(2, 2)
    with raises(BadWeights, match=r"2 missing \(bias, weight\).* it looks like DINOv3 as Meta publishes it; give a file of"):
        weights.fill(layer, state, where="x.pth")
    with raises(BadWeights, match="it looks like DINOv2 in timm's names"):
        weights.fill(layer, {}, where="x.pth", file_names=["pos_embed", "blocks.0.ls1.gamma"])
    with raises(BadWeights, match=r"1 unexpected \(scale\); give"):
        weights.fill(layer, {**layer.state_dict(), "scale": torch.zeros(1)}, where="x.pth")
