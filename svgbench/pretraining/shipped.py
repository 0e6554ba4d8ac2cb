"""What a recipe's builder hands to ``pretrain``."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from svgbench.machine.training import Task


class Shipped(NamedTuple):
    """A task, the network whose weights leave it, and whether its moving average leaves instead."""

    task: Task
    network: nn.Module
    averaged: bool
