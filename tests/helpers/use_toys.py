"""Uses every toy that ``test_extensions.py`` adds to a copy of the package; prints what came of each as JSON. A process of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from svgbench.backends.open import open_encoder
from svgbench.cli.main import app
from svgbench.config import schema
from svgbench.config.build import build
from svgbench.config.cards import find
from svgbench.config.choices import evaluations
from svgbench.config.experiments import cells, load_experiment
from svgbench.config.sampling import SamplingProtocol
from svgbench.errors import BadConfig
from svgbench.machine.feed import loaded
from svgbench.machine.order import Batch
from svgbench.machine.runtime import Runtime
from svgbench.metrics.declared import METRICS
from svgbench.metrics.features import ImageFeatures
from svgbench.metrics.frechet import Moments
from svgbench.metrics.generation import generation_scores
from svgbench.metrics.protocol import ImageGroup, Judge
from svgbench.metrics.reference import Reference
from svgbench.nets.alignment import Alignment
from svgbench.nets.latents import LatentStats
from svgbench.nets.objectives import objective_of
from svgbench.nets.sampler import generate
from svgbench.nets.sit import SiT
from svgbench.stages import graph
from svgbench.stages.diffusion import DiffusionTask
from svgbench.stages.transformers import open_transformer, write_description
from svgbench.tables.layouts import load_layout

RUNTIME = Runtime(device="cpu", threads=1, quiet=True)
NOISE, LABELS = torch.randn(2, 3, 4, 4), torch.tensor([0, 1])


def drawn(model, sampler: str, **settings) -> list[float]:
    made = generate(model, NOISE, LABELS, SamplingProtocol(sampler=sampler, steps=4, guidance=2.0, shift=1.0, **settings))
    return made.flatten().tolist()


def network() -> SiT:
    torch.manual_seed(0)
    model = SiT(channels=3, grid=4, width=16, depth=1, heads=2, classes=2)
    for layer in (model.final, model.modulation):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return model


def sampler() -> dict:
    config = build({"sampling": {"sampler": "toy"}}, preset="tiny")
    return {
        "configured": config.sampling.sampler, "evaluations": evaluations("toy", 4, 1.0, "constant", 1.0),
        "as euler": drawn(network(), "toy") == drawn(network(), "euler"),
    }  # fmt: skip


def alignment() -> dict:
    config = build({"autoencoder": {"align": "toy"}}, preset="tiny")
    module = Alignment(config.autoencoder.align, feature_channels=5, residual_channels=2)
    residual, features = torch.randn(8, 2, 4, 4), torch.randn(8, 5, 4, 4)
    module.freeze(module.statistics_of(residual, features))
    return {"configured": module.mode, "freezes": module.freezes, "finite": bool(module(residual).isfinite().all())}


def objective(place: Path) -> dict:
    config = build({"diffusion": {"objective": "toy"}, "sampling": {"sampler": "toy-euler"}}, preset="tiny")
    part = schema.Diffusion(objective="toy", flip=False, training={"total_images": 6, "batch": 6})
    stats = LatentStats(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    latents, labels = torch.randn(6, 3, 4, 4), torch.tensor([0, 1] * 3)
    sit = network()
    task = DiffusionTask(sit, lambda indices, flip: latents[indices], labels, stats, part, 0, RUNTIME)
    batch = loaded(task, Batch(indices=torch.arange(6), positions=torch.arange(6), size=6, images_seen=0), RUNTIME.torch_device)
    losses = task.update(batch, lambda name: None)
    save_file({name: tensor.contiguous() for name, tensor in sit.state_dict().items()}, place / "sit.safetensors")
    write_description(place, sit.sizes, ["a", "b"], objective="toy")
    model, _ = open_transformer(place, RUNTIME)
    try:
        build({"diffusion": {"objective": "toy"}}, preset="tiny")
        refused = ""
    except BadConfig as error:
        refused = str(error)
    return {
        "configured": config.diffusion.objective, "loss": losses["loss"].item(), "opened as": objective_of(model),
        "sampled": len(drawn(model, "toy-euler")), "refused": refused,
    }  # fmt: skip


def knob() -> dict:
    config = build({"sampling": {"guidance_offset": 0.5}}, preset="tiny")
    plain, moved = drawn(network(), "euler"), drawn(network(), "euler", guidance_offset=0.5)
    protocol = SamplingProtocol(sampler="euler", steps=4, guidance=2.0, shift=1.0, guidance_offset=0.5)
    return {
        "configured": config.sampling.guidance_offset, "in the key": "sampling.guidance_offset" in graph.by_name("samples").slice,
        "in the protocol": protocol.guidance_offset, "changes samples": plain != moved,
    }  # fmt: skip


def metric(shelf: Path) -> dict:
    sets = [torch.randn(40, 4), torch.randn(60, 4)]
    samples, real = (
        ImageFeatures(count=len(x), moments=Moments.empty(4).add(x), kept=x, logits=None, classes=None, spatial=()) for x in sets
    )
    reference = Reference.of(real, ImageGroup(name="train", count=60, digest="ab" * 32))
    scores = generation_scores(samples, reference, judge=Judge(name="net", digest="cd" * 32))
    (score,) = (score for score in scores if score.metric == "toy")
    columns = [column.metric for column in load_layout(str(shelf / "toy-table.yaml")).columns]
    return {"value": score.value, "measure": score.protocol.measure, "title": METRICS["toy"].title, "columns": columns}


def encoded(card: str, shelf: Path) -> list[int]:
    encoder = open_encoder(find(card, "tiny", shelf), random_weights_seed=0)
    return list(encoder.encode(torch.rand(2, 3, 32, 32)).shape)


def yaml_only(shelf: Path) -> dict:
    grid = cells(load_experiment("toy-grid", shelf), shelf)
    return {"backend": encoded("toy-backend", shelf), "grid": list(grid), "layout": load_layout(str(shelf / "toy-table.yaml")).title}


def main() -> None:
    place, shelf = Path(sys.argv[1]), Path(sys.argv[2])
    help_ = " ".join(CliRunner().invoke(app, ["sample", "--help"], terminal_width=200).output.split())
    used = {
        "sampler": {**sampler(), "in the help": "toy" in help_},
        "alignment": alignment(),
        "objective": objective(place),
        "knob": knob(),
        "metric": metric(shelf),
        "backend": encoded("toy-own", shelf),
        "yaml only": yaml_only(shelf),
    }
    json.dump(used, sys.stdout)


if __name__ == "__main__":
    main()
