"""The losses of 20 updates of every objective and the samples of every sampler, held to stored values.

``same_numbers.json`` was written by ``python tests/stages/test_same_numbers.py`` before objectives and samplers became tables. Where this
machine rounds as that one did (a probe of plain torch operations gives the same bits), the values must be equal bit for bit.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from svgbench.config import schema
from svgbench.config.choices import SAMPLERS
from svgbench.machine.feed import loaded
from svgbench.machine.order import Batch
from svgbench.machine.runtime import Runtime
from svgbench.nets import draws
from svgbench.nets.latents import LatentStats
from svgbench.nets.objectives import OBJECTIVES
from svgbench.nets.representation import Projector
from svgbench.nets.sampler import sample
from svgbench.nets.sit import SiT
from svgbench.stages import diffusion

STORED = Path(__file__).parent / "same_numbers.json"
SIZES = {"channels": 4, "grid": 4, "width": 32, "depth": 2, "heads": 2, "classes": 3}
UPDATES = 20
MAR = {"buffer": 2, "head_width": 16, "head_depth": 2}
LOSSES = {
    "flow": {},
    "flow-data": {"prediction": "data", "time": "logit-normal", "shift": 0.7},
    "ddpm": {"objective": "ddpm"},
    "ddpm-learned-sigma": {"objective": "ddpm", "transformer": {"learned_sigma": True}},
    "flow-repa": {},
    "meanflow": {"objective": "meanflow", "meanflow": {"intervals": 0.5, "guidance": 2.0}},
    "mar": {"objective": "mar", "mar": MAR},
}
HEAD = {"head_steps": 6, "temperature": 0.9, "token_limit": 3.0}
GUIDED = {"guidance": 3.0, "schedule": "late", "guided_channels": 3}
SAMPLES = {
    **{name: {"sampler": name} for name in ("euler", "heun", "midpoint", "dopri5", "sde-euler", "ddim", "ddpm")},
    **{f"{name}-guided": {"sampler": name, **GUIDED} for name in ("euler", "heun", "sde-euler", "ddim", "ddpm")},
    "euler-weak": {"sampler": "euler", "weak": True, "guidance": 2.0, "schedule": "interval-0.1-0.6"},
    **{name: {"sampler": "meanflow", **more} for name, more in (("meanflow", {}), ("meanflow-guided", GUIDED))},
    **{name: {"sampler": "mar", **HEAD, **more} for name, more in (("mar", {}), ("mar-guided", {"guidance": 3.0, "schedule": "linear"}))},
    "euler-data": {"sampler": "euler", "guidance": 2.0, "schedule": "linear"},
}


class Latents:
    """Values [6, C, 4, 4] that a position's flip mirrors."""

    def __init__(self, channels: int, purpose: str) -> None:
        self.values = draws.normal(draws.stream(0, purpose), torch.arange(6), (channels, 4, 4))

    def __call__(self, indices, flip):
        return torch.where(flip[:, None, None, None], self.values[indices].flip(-1), self.values[indices])


def network(seed: int, learned_sigma: bool = False, interval: bool = False) -> SiT:
    torch.manual_seed(seed)
    model = SiT(**SIZES, learned_sigma=learned_sigma, interval=interval)
    for layer in (model.final, model.modulation):
        nn.init.normal_(layer.weight, std=0.1)
    return model


def mar(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    part = schema.Diffusion(objective="mar", transformer={"width": 32, "depth": 2, "heads": 2, "patch": 1}, mar=MAR)
    row = OBJECTIVES["mar"]
    model = row.network(**{name: SIZES[name] for name in ("channels", "grid", "classes")}, **row.sizes(part))
    for layer in (model.head.final, model.head.modulation):
        nn.init.normal_(layer.weight, std=0.1)
    return model


def teacher() -> diffusion.Teacher:
    """REPA's teacher with stored features in place of an encoder's."""
    torch.manual_seed(5)
    made = object.__new__(diffusion.Teacher)
    made.projector, made.weight, made.block, made.features = Projector(32, 16, 8), 0.5, 1, Latents(8, "features")
    return made


def losses(name: str) -> list[float]:
    """Loss of each of 20 updates, those with a teacher followed by its own losses."""
    part = schema.Diffusion(training={"total_images": 120, "batch": 6, "optimiser": {"lr": 1e-3}}, **LOSSES[name])
    stats = LatentStats(torch.full((4,), 0.1, dtype=torch.float64), torch.full((4,), 1.3, dtype=torch.float64))
    runtime, labels = Runtime(device="cpu", threads=1, micro_batch=4, quiet=True), torch.tensor([0, 1, 2, 0, 1, 2])
    model = mar() if part.objective == "mar" else network(0, part.transformer.learned_sigma, part.objective == "meanflow")
    watched = teacher() if name == "flow-repa" else None
    task = diffusion.DiffusionTask(model, Latents(4, "latents"), labels, stats, part, 3, runtime, watched)

    def apply(which: str) -> None:
        task.optimisers[which].step()
        task.optimisers[which].zero_grad()

    rows = []
    for update in range(UPDATES):
        positions = torch.arange(6) + 6 * update
        batch = Batch(indices=torch.arange(6), positions=positions, size=6, images_seen=6 * update)
        rows.append({loss: value.item() for loss, value in task.update(loaded(task, batch, runtime.torch_device), apply).items()})
    return [row[loss] for loss in rows[0] for row in rows]


def opened(seed: int, objective: str, prediction: str, **more):
    return OBJECTIVES[objective].wrap(network(seed, **more), prediction).eval().requires_grad_(False)


def samples(name: str) -> list[float]:
    """Two samples, flat."""
    settings = dict(SAMPLES[name])
    objective = SAMPLERS[settings["sampler"]].objective
    kind = (objective, "data" if name == "euler-data" else "velocity")
    if objective == "mar":
        return taken(mar(1).eval().requires_grad_(False), settings)
    model = opened(1, *kind, learned_sigma=objective == "ddpm", interval=objective == "meanflow")
    settings["weak"] = opened(2, *kind) if settings.get("weak") else None
    return taken(model, settings)


def taken(model: Any, settings: dict[str, Any]) -> list[float]:
    noise = draws.normal(9, torch.arange(2), (4, 4, 4))
    made = sample(model, noise, torch.tensor([0, 2]), steps=6, shift=0.4, seed=11, indices=torch.tensor([4, 7]), **settings)
    return made.flatten().tolist()


def probe() -> str:
    """Digest of plain operations: equal where a machine rounds as another does."""
    x = draws.normal(1, torch.arange(32), (32,))
    y = nn.functional.layer_norm(nn.functional.gelu(x @ x.T, approximate="tanh").softmax(1) @ x, (32,))
    return hashlib.sha256(torch.cat([y, y.exp(), y.tanh(), y.sin()]).numpy().tobytes()).hexdigest()


def numbers() -> dict:
    return {
        "probe": probe(),
        "losses": {name: losses(name) for name in LOSSES},
        "samples": {name: samples(name) for name in SAMPLES},
    }


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("kind", "name"), [*(("losses", name) for name in LOSSES), *(("samples", name) for name in SAMPLES)])
def test_losses_and_samples_are_the_stored_ones(kind, name):
    stored = json.loads(STORED.read_text())
    values = (losses if kind == "losses" else samples)(name)
    if stored["probe"] == probe():
        assert values == stored[kind][name]
    else:
        assert values == pytest.approx(stored[kind][name], rel=1e-3, abs=1e-4)


def test_the_stored_values_are_of_every_objective_and_every_sampler():
    stored = json.loads(STORED.read_text())
    assert set(stored["losses"]) == set(LOSSES) and set(stored["samples"]) == set(SAMPLES)
    assert {settings["sampler"] for settings in SAMPLES.values()} == set(SAMPLERS)
    assert {settings.get("objective", "flow") for settings in LOSSES.values()} == set(OBJECTIVES)


if __name__ == "__main__":
    torch.set_num_threads(1)
    STORED.write_text(json.dumps(numbers(), indent=1) + "\n")
