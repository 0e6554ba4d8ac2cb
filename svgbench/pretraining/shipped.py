"""What a recipe's builder gets, and what it returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from svgbench.config.networks import Training
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import Task
from svgbench.pretraining.pictures import Pictures


class Job(NamedTuple):
    """One training: the name of its card or judge, its images and settings, and the seed of its initial weights and random draws."""

    card: str
    pictures: Pictures
    training: Training
    runtime: Runtime
    seed: int


class Shipped(NamedTuple):
    """A training task, the network whose weights are written, and whether its moving average is written instead."""

    task: Task
    network: nn.Module
    averaged: bool
