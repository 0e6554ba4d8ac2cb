"""Precision of encoding and of sampling: what runs in bf16, what stays float32, and how far bf16 moves latents, images and samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from products import Products

from svgbench.api.models import sample
from svgbench.backends.open import open_encoder
from svgbench.config import cards
from svgbench.config.networks import Decoder, Residual
from svgbench.config.sampling import SamplingProtocol
from svgbench.config.schema import Autoencoder
from svgbench.errors import BadConfig
from svgbench.images.shapes import draw
from svgbench.nets.alignment import Alignment
from svgbench.nets.chunks import whole_batches
from svgbench.nets.ddpm import EpsilonModel
from svgbench.nets.flow import DataModel
from svgbench.nets.precision import products_in
from svgbench.nets.sampler import generate
from svgbench.nets.sit import SiT
from svgbench.nets.tokenizer import Codec, Tokenizer
from svgbench.stages.tokenizers import build

FEATURES = ("dinov3-tiny", "dinov2-tiny", "mae-tiny", "siglip-tiny")
CODECS = ("sd-vae-tiny", "va-vae-tiny")
SIZES = {"width": 32, "depth": 2, "heads": 2, "classes": 3}
ROWS = 2
"""Products in bf16 are slow on a CPU, and a chunk of 32 px images has 32 rows; so these tests do not split batches into chunks."""


@pytest.fixture(autouse=True)
def unsplit():
    with whole_batches():
        yield


def pictures(count: int = ROWS) -> torch.Tensor:
    """Embedded images [B, 3, 32, 32] in [0, 1], on which the shipped weights were trained."""
    return torch.from_numpy(draw(np.arange(count), seed=0, resolution=32, split="val").images).float() / 255


def tokenizer(name: str, precision: str | None, align: str = "frozen") -> Tokenizer | Codec:
    """With the encoder's shipped weights; residual encoder and decoder have their first weights."""
    encoder = open_encoder(cards.find(name, "tiny"))
    encoder.precision = precision
    if encoder.card.kind == "codec":
        return Codec(encoder)
    torch.manual_seed(0)
    small = Autoencoder(residual=Residual(channels=4, layers=2, width=32, heads=2, mlp=64), align=align,
                        decoder=Decoder(base=16, multipliers=(1, 1, 2), blocks=1, attention=(8,)))  # fmt: skip
    net = build(encoder, small, 32, torch.device("cpu")).eval().requires_grad_(False)
    assert isinstance(net.alignment, Alignment)
    net.alignment.freeze(net.alignment.statistics_of(net.residual(pictures()), net.features(pictures())))
    return net


def velocity(kind: str = "flow") -> SiT | DataModel | EpsilonModel:
    """A network whose outputs are not zero, as they are at its first weights."""
    torch.manual_seed(1)
    net = SiT(channels=8, grid=4, learned_sigma=kind == "ddpm", **SIZES)
    for layer in (net.modulation, net.final_modulation, net.final):
        torch.nn.init.normal_(layer.weight, std=0.1)
    net.eval().requires_grad_(False)
    return {"flow": lambda net: net, "data": DataModel, "ddpm": EpsilonModel}[kind](net)


def drawn(precision: str, *, model=None, kind: str = "flow", **settings) -> torch.Tensor:
    noise = torch.randn(ROWS, 8, 4, 4, generator=torch.Generator().manual_seed(2))
    model = velocity(kind) if model is None else model
    chosen = {"sampler": "ddim" if kind == "ddpm" else "euler", "steps": 10, "guidance": 2.0, "shift": 0.4, **settings}
    return generate(model, noise, torch.arange(ROWS) % 3, SamplingProtocol(precision=precision, **chosen))


def relative(moved: torch.Tensor, exact: torch.Tensor) -> float:
    return ((moved - exact).norm() / exact.norm()).item()


def psnr(moved: torch.Tensor, exact: torch.Tensor) -> float:
    return -10 * math.log10((moved - exact).square().mean().item())


# --- what runs in which precision ---


@pytest.mark.parametrize("name", FEATURES + CODECS)
def test_in_bf16_no_product_of_encoding_and_decoding_is_float32(name):
    net = tokenizer(name, "bf16")
    with Products() as seen:
        raw = net.encode(pictures())
        net.decode(raw)
    assert seen.bf16 and not seen.fp32, seen.fp32
    assert raw.dtype == torch.float32


@pytest.mark.parametrize("name", ["dinov3-tiny", "sd-vae-tiny"])
def test_the_precision_is_that_of_the_encoder_whatever_the_caller_computes_in(name):
    net, cpu = tokenizer(name, "fp32"), torch.device("cpu")
    features = {}
    for own, outside in (("fp32", "bf16"), ("bf16", "fp32")):
        net.frozen.precision = own
        raw, features[own] = net.encode(pictures()), net.features(pictures())
        with products_in(outside, cpu):
            assert torch.equal(net.encode(pictures()), raw)
            images = net.decode(raw)
        assert torch.equal(net.decode(raw), images)
    assert not torch.equal(features["fp32"], features["bf16"])
    net.frozen.precision = None  # as the caller computes
    assert torch.equal(net.features(pictures()), features["fp32"])
    with products_in("bf16", cpu):
        assert torch.equal(net.features(pictures()), features["bf16"])


@pytest.mark.parametrize("align", ["frozen", "whiten", "token"])
def test_alignment_is_float32(align):
    net = tokenizer("dinov3-tiny", "bf16", align)
    features, residual = net.features(pictures()), net.residual(pictures())
    assert torch.equal(net.encode(pictures())[:, net.feature_channels :], net.alignment(residual, features))


@pytest.mark.parametrize(("kind", "settings"), [
    ("flow", {}), ("flow", {"sampler": "heun"}), ("flow", {"sampler": "sde-euler"}), ("flow", {"schedule": "interval-0.2-0.6"}),
    ("flow", {"optimised_scale": True}), ("flow", {"sampler": "dopri5", "steps": 3}), ("data", {}), ("ddpm", {}),
    ("ddpm", {"sampler": "ddpm"}),
])  # fmt: skip
def test_in_bf16_no_product_of_sampling_is_float32_and_the_latent_stays_float32(kind, settings):
    with Products() as seen:
        latents = drawn("bf16", kind=kind, **settings)
    assert seen.bf16 and not seen.fp32, seen.fp32
    assert latents.dtype == torch.float32 and bool((latents != latents.bfloat16().float()).any())  # not rounded by the last step


def test_the_weak_model_of_autoguidance_runs_in_the_same_precision():
    net, noise = velocity(), torch.randn(ROWS, 8, 4, 4, generator=torch.Generator().manual_seed(2))
    how = SamplingProtocol(sampler="euler", steps=2, guidance=2.0, shift=0.4, against="weak", precision="bf16")
    with Products() as seen:
        generate(net, noise, torch.zeros(ROWS, dtype=torch.int64), how, weak=velocity())
    assert seen.bf16 and not seen.fp32, seen.fp32


def test_in_fp32_everything_is_float32():
    net = tokenizer("dinov3-tiny", "fp32")
    with Products() as seen:
        plain = drawn("fp32")
        net.encode(pictures())
    assert seen.fp32 and not seen.bf16
    assert torch.equal(plain, sample(velocity(), torch.randn(ROWS, 8, 4, 4, generator=torch.Generator().manual_seed(2)),
                                     torch.arange(ROWS) % 3, steps=10, guidance=2.0, shift=0.4))  # fmt: skip


def test_the_function_takes_a_precision_and_refuses_another():
    noise, labels = torch.randn(ROWS, 8, 4, 4, generator=torch.Generator().manual_seed(2)), torch.arange(ROWS) % 3
    moved = sample(velocity(), noise, labels, steps=10, guidance=2.0, shift=0.4, precision="bf16")
    assert torch.equal(moved, drawn("bf16")) and not torch.equal(moved, drawn("fp32"))
    with pytest.raises(BadConfig, match="precision must be fp32 or bf16, not fp16"):
        sample(velocity(), noise, labels, precision="fp16")


# --- how far bf16 moves values; bfloat16 rounds to 8 significant bits, a relative error of 0.2 to 0.4 % a rounding ---


@pytest.mark.parametrize("name", FEATURES + CODECS)
def test_bf16_moves_latents_by_less_than_one_percent(name):
    exact, moved = (tokenizer(name, precision).features(pictures()) for precision in ("fp32", "bf16"))
    cosine = torch.cosine_similarity(moved, exact, dim=1).min().item()
    assert 1e-4 < relative(moved, exact) < 0.01 and cosine > 0.999, (relative(moved, exact), cosine)


@pytest.mark.parametrize("name", ["dinov3-tiny", *CODECS])
def test_bf16_moves_decoded_images_by_about_a_byte_at_most(name):
    raw = tokenizer(name, "fp32").encode(pictures())
    exact, moved = (tokenizer(name, precision).decode(raw) for precision in ("fp32", "bf16"))
    least = 50 if name in CODECS else 45  # one byte: 48 dB; a decoder at its first weights moves more
    assert least < psnr(moved, exact) < 80, psnr(moved, exact)


@pytest.mark.parametrize(("sampler", "steps"), [("euler", 25), ("heun", 10)])
def test_bf16_moves_samples_by_a_few_percent_at_most(sampler, steps):
    exact, moved = (drawn(precision, sampler=sampler, steps=steps) for precision in ("fp32", "bf16"))
    assert 1e-4 < relative(moved, exact) < 0.03, relative(moved, exact)
