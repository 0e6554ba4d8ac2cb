"""The closed formulas of what networks cost, held to the flop counter and to the parameters that are there; meta tensors only."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from svgbench.backends.open import open_network
from svgbench.config import cards, networks, schema
from svgbench.config.build import SIZES, WIDE, build
from svgbench.lab.forecast import flops
from svgbench.lab.forecast.sizes import Counts, sizes_of
from svgbench.machine.measure import count_flops
from svgbench.metrics.dinov2_extractor import MEMBERS, SIDE
from svgbench.metrics.judges import row
from svgbench.metrics.perceptual import VggTaps
from svgbench.nets.classifier import EXTRACTORS, PERCEPTUAL, SELF_TAUGHT
from svgbench.nets.critic import PatchDiscriminator
from svgbench.nets.ldm import LdmDecoder
from svgbench.nets.mar import MAR, Hidden
from svgbench.nets.representation import Projector
from svgbench.nets.residual import PatchResidual, ResidualEncoder
from svgbench.nets.sit import SiT
from svgbench.nets.vit_decoder import ViTDecoder

CARDS = cards.load_cards()


@pytest.fixture(autouse=True)
def on_meta():
    with torch.device("meta"):
        yield


def counted(network: torch.nn.Module, *inputs) -> flops.Work:
    """What the counter and the module say of one image."""
    with torch.no_grad():
        forward = count_flops(lambda: network(*(x.detach() if isinstance(x, torch.Tensor) else x for x in inputs)))
    both = count_flops(lambda: network(*inputs).sum().backward())
    return flops.Work(forward, both - forward, sum(p.numel() for p in network.parameters()))


def assert_equal(said: flops.Work, found: flops.Work) -> None:
    assert (said.forward, said.backward, said.parameters) == (found.forward, found.backward, found.parameters)


TRANSFORMERS = {
    "tiny": {**SIZES["tiny"]},
    "XL": {**SIZES["XL"]},
    "patched": {**SIZES["S"], "patch": 2, "qk_norm": False, "learned_sigma": True},
    "lightning": {**SIZES["B"], "norm": "rms", "mlp": "swiglu", "position": "both"},
    "rae": {**SIZES["B"], "norm": "rms", "mlp": "swiglu", "position": "both", "time": "fourier", "wide": WIDE},
    "as-wide": {"width": 64, "depth": 2, "heads": 4, "wide": {"width": 64, "depth": 1, "heads": 4}},
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_transformer_s_work_is_what_is_counted(name):
    part = networks.Transformer(**{"patch": 1, **TRANSFORMERS[name]})
    model = SiT(channels=392, grid=16, classes=1000, **part.model_dump())
    said = flops.transformer(part, channels=392, grid=16, classes=1000)
    assert_equal(said, counted(model, torch.zeros(1, 392, 16, 16), torch.zeros(1), torch.zeros(1).long()))


def test_an_interval_is_embedded_too():
    part = networks.Transformer(patch=1, **SIZES["tiny"])
    model = SiT(channels=8, grid=4, classes=10, interval=True, **part.model_dump())
    said = flops.transformer(part, channels=8, grid=4, classes=10, interval=True)
    assert_equal(said, counted(model, torch.zeros(1, 8, 4, 4), torch.zeros(1, 2), torch.zeros(1).long()))


@pytest.mark.parametrize(("kept", "hidden", "repeats"), [(0, 16, 1), (5, 11, 4)])
def test_mar_s_work_is_what_is_counted(kept, hidden, repeats):
    part, own = networks.Transformer(patch=1, **SIZES["tiny"]), schema.Mar(buffer=3, head_width=48, head_depth=2)
    sizes = {"width": part.width, "depth": part.depth, "heads": part.heads, "mlp_ratio": part.mlp_ratio, "patch": 1}
    model = MAR(channels=8, grid=4, classes=10, **sizes, **own.model_dump(exclude={"least_hidden", "repeats"}))
    said = flops.mar(part, own, channels=8, grid=4, classes=10, kept=kept, drawn=hidden * repeats)
    places, steps = torch.arange(16)[None], torch.zeros(1, repeats, hidden, dtype=torch.int64)
    inputs = Hidden(places[:, :kept], places[:, kept:], torch.zeros(1, repeats, hidden, 8), steps, torch.zeros(1, dtype=torch.int64), 0)
    assert_equal(said, counted(model, torch.zeros(1, 8, 4, 4), inputs, torch.zeros(1).long()))


@pytest.mark.parametrize(
    ("sizes", "head", "millions"), [((768, 12, 12), (1024, 6), 208), ((1024, 16, 16), (1280, 8), 479), ((1280, 20, 16), (1536, 12), 943)]
)
def test_mar_s_parameters_are_those_of_the_authors_table(sizes, head, millions):
    """github.com/LTH14/mar, README.md; 478.3 and 942.4 million are rounded up there."""
    part = networks.Transformer(patch=1, **dict(zip(("width", "depth", "heads"), sizes, strict=True)))
    own = schema.Mar(head_width=head[0], head_depth=head[1])
    assert math.ceil(flops.mar(part, own, channels=16, grid=16, classes=1000, kept=0, drawn=0).parameters / 1e6) == millions


def test_the_counted_table_of_the_paper_s_sizes_is_reproduced():
    """Forward GF of SiT-S, B, L, XL, the residual ViT and the decoder at 256 px, and a SiT-XL update."""
    sizes = {name: networks.Transformer(patch=1, **SIZES[name]) for name in ("S", "B", "L", "XL")}
    found = {name: flops.transformer(part, channels=392, grid=16, classes=1000) for name, part in sizes.items()}
    assert {name: each.forward / 1e9 for name, each in found.items()} == pytest.approx({"S": 12, "B": 47, "L": 162, "XL": 238}, rel=0.022)
    assert found["XL"].training / 1e9 == pytest.approx(714, abs=2) and round(found["XL"].parameters / 1e6) == 676
    decoder = flops.decoder(networks.Decoder(), channels=392, stride=16, resolution=256)
    assert (round(decoder.forward / 1e9), round(decoder.training / 1e9), round(decoder.parameters / 1e6)) == (253, 759, 43)
    residual = flops.residual_encoder(networks.Residual(), patch=16, resolution=256)
    assert residual.forward / 1e9 == pytest.approx(6.2, abs=0.1) and round(residual.training / 1e9) == 19
    assert round(residual.parameters / 1e6) == 11


@pytest.mark.parametrize(("part", "resolution", "patch"), [
    (networks.Residual(), 256, 16), (networks.Residual(channels=4, layers=2, width=96, heads=3, mlp=384), 32, 8),
])  # fmt: skip
def test_the_residual_encoder_s_work_is_what_is_counted(part, resolution, patch):
    model = ResidualEncoder(**part.model_dump(), patch=patch, resolution=resolution)
    assert_equal(
        flops.residual_encoder(part, patch=patch, resolution=resolution), counted(model, torch.zeros(1, 3, resolution, resolution))
    )


def test_the_work_of_a_linear_residual_is_what_is_counted():
    part, image = networks.Residual(kind="patch", channels=8), torch.zeros(1, 3, 64, 64)
    assert_equal(flops.residual_encoder(part, patch=16, resolution=64), counted(PatchResidual(channels=8, drop=0.1, patch=16), image))


def test_without_channels_there_is_no_residual_encoder():
    assert flops.residual_encoder(networks.Residual(channels=0), patch=16, resolution=256) == flops.Work()


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(("part", "resolution"), [
    (networks.Decoder(), 256), (networks.Decoder(base=16, multipliers=(1, 2, 2, 4), blocks=1, attention=(4, 16)), 32),
])  # fmt: skip
def test_the_convolutional_decoder_s_work_is_what_is_counted(part, resolution, trained):
    stride = 2 ** (len(part.multipliers) - 1)
    model = LdmDecoder(**part.model_dump(exclude={"kind", "vit"}), z_channels=24, resolution=resolution)
    grid = resolution // stride
    said = flops.decoder(part, channels=24, stride=stride, resolution=resolution, trained_latents=trained)
    assert_equal(said, counted(model, torch.zeros(1, 24, grid, grid, requires_grad=trained)))


@pytest.mark.parametrize("trained", [True, False])
def test_the_vit_decoder_s_work_is_what_is_counted(trained):
    part = networks.Decoder(kind="vit", vit=networks.VitDecoder(width=64, layers=3, heads=4, mlp=96))
    model = ViTDecoder(z_channels=24, resolution=64, stride=16, **part.vit.model_dump())
    said = flops.decoder(part, channels=24, stride=16, resolution=64, trained_latents=trained)
    assert_equal(said, counted(model, torch.zeros(1, 24, 4, 4, requires_grad=trained)))


@pytest.mark.parametrize(("base", "layers", "resolution"), [(64, 3, 256), (16, 2, 32)])
def test_the_discriminator_s_work_is_what_is_counted(base, layers, resolution):
    part = schema.ReconstructionLoss(discriminator_base=base, discriminator_layers=layers)
    said, first = flops.discriminator(part, resolution=resolution)
    model = PatchDiscriminator(base, layers)
    assert_equal(said, counted(model, torch.zeros(1, 3, resolution, resolution, requires_grad=True)))
    blind = counted(model, torch.zeros(1, 3, resolution, resolution))
    assert said.backward - first == blind.backward


def test_the_projector_s_work_is_what_is_counted():
    model, tokens = Projector(128, 256, 96), torch.zeros(1, 16, 128, requires_grad=True)
    assert_equal(flops.projector(16, 128, 256, 96), counted(model, tokens))


@pytest.mark.parametrize("resolution", [32, 256])
def test_the_perceptual_networks_work_is_what_is_counted(resolution):
    image = torch.zeros(1, 3, resolution, resolution)
    assert flops.perceptual("lpips", resolution=resolution) == count_flops(lambda vgg=VggTaps(): vgg(image))
    for name, kind in PERCEPTUAL.items():
        small = kind(classes=10, words=9)
        assert flops.perceptual(name, resolution=resolution) == count_flops(lambda small=small: small.activations(image))


@pytest.mark.parametrize("name", sorted(CARDS))
def test_a_card_states_the_work_of_its_encoder(name):
    card = CARDS[name]
    network, side = open_network(card).eval(), int(card.pixels.size * ratio_of(card.pixels.scale))
    with torch.no_grad():
        found = count_flops(lambda: network.encode(torch.zeros(1, 3, side, side))) / 1e9
        assert card.gflops == pytest.approx(found, rel=1e-3), f"encoders/{name}.yaml: gflops: {found:.4g}"
        if card.kind == "codec":
            latent = network.encode(torch.zeros(1, 3, side, side))
            found = count_flops(lambda: network.decode(latent)) / 1e9
            assert card.decode_gflops == pytest.approx(found, rel=1e-3), f"encoders/{name}.yaml: decode_gflops: {found:.4g}"
        else:
            assert card.decode_gflops == 0


def ratio_of(scale: str) -> float:
    above, below = scale.split("/")
    return int(above) / int(below)


def test_a_card_s_work_grows_with_the_area_and_is_none_where_nobody_counted():
    card = CARDS["dinov3-s16plus"]
    assert flops.encoding(card, 512) == 4 * flops.encoding(card, 256) == pytest.approx(4 * 16.19e9)
    assert flops.encoding(cards.find("timm:vit_base_patch16_224", "paper"), 256) is None


def test_extractors_state_the_work_of_one_image():
    for name, kind in EXTRACTORS.items():
        small = kind(classes=10, words=9)
        image = torch.zeros(1, 3, kind.side, kind.side)
        found = count_flops(lambda small=small, image=image: small(image)) / 1e9
        assert row("features", name)["gflops"] == pytest.approx(found, rel=1e-3), f"{name}: gflops: {found:.4g}"
    for name, trunk in SELF_TAUGHT.items():
        found = count_flops(lambda trunk=trunk: trunk()(torch.zeros(1, 3, trunk.side, trunk.side))) / 1e9
        assert row("features", name)["gflops"] == pytest.approx(found, rel=1e-3), f"{name}: gflops: {found:.4g}"
    with pytest.MonkeyPatch.context() as patch:  # its constructor insists on a file
        patch.setattr(torch, "load", lambda *args, **kwargs: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path="none")
    found = count_flops(lambda: network(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))) / 1e9
    assert row("features", "inception")["gflops"] == pytest.approx(found, rel=1e-3)


@pytest.mark.parametrize("name", ["dinov2-vit-l-14", "dinov2-vit-s-14"])
def test_dinov2_states_the_work_of_one_image(name):
    network = timm.create_model(MEMBERS[f"svgbench-{name}"], img_size=SIDE, num_classes=0).eval()
    with torch.no_grad():
        found = count_flops(lambda: network(torch.zeros(1, 3, SIDE, SIDE))) / 1e9
    assert row("features", name)["gflops"] == pytest.approx(found, rel=1e-3)


@pytest.mark.parametrize("second", ["inception", "dinov2-vit-l-14"])
def test_both_extractors_are_asked_for_their_work(second, monkeypatch):
    config = build({"scores": {"extractor": "shapes-cnn", "second_extractor": second}}, preset="tiny")
    found = sizes_of(config, Counts(10, 10, 10))
    assert found.unknown == []
    silent = {name: {k: v for k, v in row("features", name).items() if k != "gflops"} for name in ("shapes-cnn", second)}
    monkeypatch.setattr("svgbench.lab.forecast.sizes.judges.row", lambda kind, name: silent[name])
    assert found.unknown == ["the extractor shapes-cnn", f"the extractor {second}"]
