"""Sums of losses that stay on the device until they are read, so that the training loop does not wait for the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from svgbench.machine.runtime import Runtime


class Tally:
    """Mean losses since they were last read, and the number of updates with values that are not finite."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._shared: set[str] = set()
        self._bad = torch.zeros((), device=device, dtype=torch.int64)
        self._bad_now = torch.zeros((), device=device, dtype=torch.bool)

    def add(self, losses: Mapping[str, Tensor], size: int) -> None:
        """Adds the losses of one update, each already divided by the global batch size ``size``, and ends the update."""
        for name, loss in losses.items():
            self._bad_now = self._bad_now | ~torch.isfinite(loss)
            self._add(name, loss, size)
        self._bad = self._bad + self._bad_now
        self._bad_now = torch.zeros_like(self._bad_now)

    def note(self, name: str, value: Tensor, bad: Tensor) -> None:
        """Adds a number that is the same on every rank (a gradient norm), and marks the update as bad if ``bad``."""
        self._shared.add(name)
        self._bad_now = self._bad_now | bad
        self._add(name, value, 1)

    def _add(self, name: str, value: Tensor, weight: int) -> None:
        """Adds [value * weight, weight] if the value is finite."""
        value = value.detach().double()
        finite = torch.isfinite(value)
        pair = torch.stack([torch.where(finite, value * weight, 0.0), finite * float(weight)])
        self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def take_bad(self) -> Tensor:
        """Number of bad updates since the last call, int64 []."""
        bad, self._bad = self._bad, torch.zeros_like(self._bad)
        return bad

    def means(self, runtime: Runtime) -> dict[str, float]:
        """Returns the means over images and ranks since the last call, and resets the sums."""
        sums = self._reduced(runtime)
        self._sums = {}
        return {name: total / weight for name, (total, weight) in sums.items() if weight}

    def _reduced(self, runtime: Runtime) -> dict[str, tuple[float, float]]:
        names = sorted(self._sums)
        if not names:
            return {}
        table = torch.stack([self._sums[name] for name in names])
        if runtime.world > 1:
            runtime.all_reduce_(table)
            shared = torch.tensor([name in self._shared for name in names], device=self._device)
            table[:, 1] /= runtime.world  # every rank counted the global batch
            table[:, 0] = torch.where(shared, table[:, 0] / runtime.world, table[:, 0])
        return {name: (row[0], row[1]) for name, row in zip(names, table.tolist(), strict=True)}

    def state(self, runtime: Runtime) -> dict[str, Any]:
        """The current sums over all ranks, as numbers that JSON stores exactly."""
        return {"sums": {name: list(pair) for name, pair in self._reduced(runtime).items()}, "shared": sorted(self._shared)}

    def load(self, state: Mapping[str, Any], runtime: Runtime) -> None:
        """Restores saved sums; each rank gets an equal part."""
        self._shared = set(state["shared"])
        for name, (total, weight) in state["sums"].items():
            part = total if name in self._shared else total / runtime.world
            self._sums[name] = torch.tensor([part, weight], dtype=torch.float64, device=self._device)
