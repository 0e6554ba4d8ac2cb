"""Exponential moving average of a module's weights, stored separately as a state dict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from svgbench.machine.sharding import local


class Averages:
    """``average <- decay * average + (1 - decay) * weight`` after each step, starting from the initial weights; buffers are copied."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay = module, decay
        self._owned = {id(parameter) for parameter in module.parameters()}
        self.state: dict[str, Tensor] = {}
        self.restart()

    def restart(self) -> None:
        """Restarts the average from the current weights."""
        self.state = {name: tensor.detach().clone() for name, tensor in self._module.state_dict().items()}

    def follows(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Whether any of these parameters is in the average."""
        return any(id(parameter) in self._owned for parameter in parameters)

    @torch.no_grad()
    def update(self) -> None:
        """One step of the average."""
        live = self._module.state_dict(keep_vars=True)
        weights = [name for name, tensor in live.items() if isinstance(tensor, nn.Parameter)]
        torch._foreach_lerp_([local(self.state[n]) for n in weights], [local(live[n].detach()) for n in weights], 1 - self._decay)
        for name in live.keys() - set(weights):
            self.state[name].copy_(live[name])

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continues from saved averages."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])
