"""Principal components of a transformer's tokens as colours, by block and by time, for figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from svgbench.backends.tokens import block_outputs
from svgbench.images.store import open_images
from svgbench.machine.runtime import Runtime
from svgbench.metrics.components import coloured, components
from svgbench.nets import draws
from svgbench.nets.sit import SiT
from svgbench.stages.diagnosis import balanced, latents, write_json
from svgbench.stages.statistics import open_statistics
from svgbench.stages.tokenizers import open_tokenizer
from svgbench.stages.transformers import as_velocity, open_transformer

TIMES = (1.0, 0.9, 0.7, 0.5, 0.1)
"""Figures 11 and 12 of arXiv 2510.15301 show 0, 0.1, 0.3, 0.5 and 0.9, where 0 is data; here 1 is data."""
SHOWN = 1
"""Number of images with feature maps."""


@torch.no_grad()
def run(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Runs the trained transformer on a noised validation image x_t with its label. The first three principal components of the tokens
    after a block give red, green and blue at each token's position.

    ``pictures.npy`` uint8 [N, T, L, 3, side, side]: for each image the maps at the ``times`` after the ``blocks`` (counted from 0);
    ``pictures.json``: also the share of the tokens' variance that each of the three components explains, [N, T, L, 3].
    """
    collection = open_images(inputs["images"])
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)
    stats = open_statistics(inputs["statistics"], inputs["autoencoder"], tokenizer.channels, runtime)
    model: Any = as_velocity(open_transformer(inputs["diffusion"], runtime)[0])
    sit = next(module for module in model.modules() if isinstance(module, SiT))
    places = balanced(collection.val, len(collection.val))[0][:SHOWN]
    labels = torch.as_tensor(collection.val.labels)[places]
    data = stats.standardise(latents(collection.val, places, tokenizer, runtime))
    noise = draws.normal(draws.stream(0, "feature-maps/noise"), places.to(data.device), tuple(data.shape[1:]))
    layers, side = shown_blocks(sit.depth), sit.grid // sit.patch
    maps = np.empty((len(places), len(TIMES), len(layers), 3, side, side), np.uint8)
    shares = np.empty((len(places), len(TIMES), len(layers), 3))
    for row, t in enumerate(TIMES):
        with block_outputs(sit.blocks, layers) as outputs:
            at = torch.full((len(places),), t, device=data.device)
            model((1 - t) * noise + t * data, at, labels.to(data.device))
        for column, tokens in enumerate(outputs):
            for number, vectors in enumerate(tokens.double().cpu()):
                found = components(vectors)
                shares[number, row, column] = found.shares
                maps[number, row, column] = coloured(found.scores).view(side, side, 3).permute(2, 0, 1).numpy()
    np.save(out / "pictures.npy", maps)
    names = [collection.classes[int(label)] for label in labels]
    content = {"images": places.tolist(), "names": names, "times": TIMES, "blocks": layers, "shares": shares.tolist()}
    write_json(out / "pictures.json", content)
    return {"images_seen": len(places)}


def shown_blocks(depth: int) -> list[int]:
    """The blocks that are shown, counted from 0: the first seven, and the last block of the second, third and fourth quarter (for 28
    blocks 0 to 6, 13, 20 and 27, as in the article)."""
    return sorted({*range(min(7, depth)), *(max(round(depth * quarter / 4) - 1, 0) for quarter in (2, 3, 4))})
