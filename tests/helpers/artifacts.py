"""Finished artifacts of a small run without a training: drawn images, and an autoencoder whose residual has its first weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from svgbench.config.build import build as configured
from svgbench.config.parse import override
from svgbench.config.schema import Autoencoder
from svgbench.lab.plan import nodes_of, resolve
from svgbench.machine.files import write_atomic
from svgbench.machine.runtime import Runtime
from svgbench.stages import graph
from svgbench.stages.tokenizers import build, describe, open_frozen

SMALL = ("data.train_images=70", "data.val_images=30", "encoder.card=mae", "autoencoder.align=none", "autoencoder.residual.layers=1",
         "autoencoder.residual.width=32", "autoencoder.residual.heads=2", "autoencoder.residual.mlp=64", "scores.resamples=3")  # fmt: skip


class SmallRun:
    """The artifacts of a configuration below ``place``, by the name of what they provide."""

    def __init__(self, place: Path, *words: str) -> None:
        self.config = resolve(configured(override([*SMALL, *words]), preset="tiny"))
        self.slices = {node.stage: node.slice for node in nodes_of(self.config)}
        names = (
            "images",
            "autoencoder",
            "realignment",
            "statistics",
            "standardisation",
            "pooled-latents",
            "probe-scores",
            "reconstructions",
        )
        self.places = {name: place / name for name in names}
        for folder in self.places.values():
            folder.mkdir(parents=True)

    def make(self, stage: str) -> Path:
        """Runs a stage's worker, on every rank there is."""
        runtime = Runtime(device="cpu", threads=1, quiet=True).start()
        row = graph.by_name(stage)
        inputs = {need: self.places[need] for need in row.needs}
        graph.worker(row)(self.slices[stage], inputs, self.places[stage], runtime)
        runtime.stop()
        return self.places[stage]

    def autoencoder(self, seed: int = 0) -> Path:
        """An untrained one."""
        part, place = self.slices["autoencoder"], self.places["autoencoder"]
        settings = Autoencoder.model_validate(part["autoencoder"])
        card, encoder = open_frozen(part["encoder"], torch.device("cpu"))
        torch.manual_seed(seed)
        tokenizer = build(encoder, settings, 32, torch.device("cpu"))
        save_file({name: tensor.contiguous() for name, tensor in tokenizer.state_dict().items()}, place / "autoencoder.safetensors")
        write_atomic(place / "autoencoder.json", describe(part["encoder"], card, settings=settings.model_dump(mode="json"), resolution=32))
        return place
