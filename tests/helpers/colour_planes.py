"""How much of each colour plane finished autoencoders reconstruct, and how many directions their residual uses (reports/measured/tier.md).

python tests/helpers/colour_planes.py IMAGES AUTOENCODER...     (folders of a store's artifacts of these stages)
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from svgbench.images.store import open_images
from svgbench.machine.runtime import Runtime
from svgbench.stages.tokenizers import open_tokenizer

COUNT = 200
PLANES = torch.tensor([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
"""Luminance and the two planes of chroma, from RGB (JPEG)."""


def main(images: Path, autoencoders: list[Path]) -> None:
    """Prints, for each autoencoder, PSNR, the mean squared error of each plane, and the residual's scale and covariance."""
    runtime = Runtime(device="cpu", quiet=True)
    pixels = open_images(images).val.rows(torch.arange(COUNT)).read().float() / 255
    for place in autoencoders:
        tokenizer = open_tokenizer(place, runtime)
        latents = tokenizer.encode(pixels)
        error = tokenizer.decode(latents) - pixels
        planes = torch.einsum("pc,bchw->bphw", PLANES, error).square().mean((0, 2, 3))
        psnr = -10 * error.square().mean((1, 2, 3)).log10().mean()
        said = f"{place.name[:8]}: PSNR {psnr:.2f} dB; squared error of luminance, blue, red: {', '.join(f'{x:.5f}' for x in planes)}"
        residual = latents[:, tokenizer.feature_channels :]
        if residual.shape[1]:
            spread = torch.linalg.eigvalsh(residual.transpose(0, 1).flatten(1).double().cov())
            scale = tokenizer.residual(pixels).std((0, 2, 3)).mean()
            said += f"; residual before alignment: {scale:.1f} standard deviation; eigenvalues {', '.join(f'{x:.2g}' for x in spread)}"
        sys.stdout.write(said + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(word) for word in sys.argv[2:]])
