"""Cards of encoders small enough for tests; real architectures of the libraries, random weights."""

from __future__ import annotations

from svgbench.config.cards import EncoderCard

TINY = EncoderCard(
    name="small", family="other", backend="timm", model="vit_small_patch14_reg4_dinov2", channels=48, stride=8, params_m=0.1,
    arguments={"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2},
    pixels={"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "size": 32}, licence="-", origin="-", paper="-",
)  # fmt: skip
CODEC = EncoderCard(
    name="codec", family="other", backend="diffusers", model="AutoencoderKL", kind="codec", channels=4, stride=4, params_m=0.1,
    arguments={"block_out_channels": [16, 16, 32], "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 8,
               "down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3},
    pixels={"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "size": 32}, licence="-", origin="-", paper="-",
)  # fmt: skip


def shallow(card: EncoderCard, depth: int = 1) -> EncoderCard:
    """The card with its own widths and few layers."""
    return card.model_copy(update={"arguments": {**card.arguments, "depth": depth}})
