"""The result of a recipe's builder."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from svgbench.machine.training import Task


class Shipped(NamedTuple):
    """A training task, the network whose weights are written, and whether its moving average is written instead."""

    task: Task
    network: nn.Module
    averaged: bool
