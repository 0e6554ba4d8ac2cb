"""A second implementation of MAR's network and sampling, written from the paper (arXiv 2406.11838) and from facts of the authors' code.

It hides tokens by a mask over the whole sequence, as the authors do, and takes its weights from ``svgbench.nets.mar.MAR``. Noise is given,
so that both implementations can be compared number by number.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6


def alphas_bar(count: int = 1000) -> Tensor:
    """The cumulative products [count] of the cosine schedule, float64."""

    def kept(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - kept((i + 1) / count) / kept(i / count), 0.999) for i in range(count)]
    return torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0)


def respaced(count: int, kept: int) -> list[int]:
    """The steps that remain when ``kept`` of ``count`` are used, evenly from the first to the last."""
    stride = (count - 1) / (kept - 1) if kept > 1 else 1
    return [round(i * stride) for i in range(kept)]


class SecondMar:
    """MAR as functions of the state dict of ``svgbench.nets.mar.MAR``."""

    def __init__(self, network) -> None:
        self.w, self.sizes = network.state_dict(), network.sizes
        self.tokens = (self.sizes["grid"] // self.sizes["patch"]) ** 2

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, name: str | None, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        plain = centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt()
        return plain if name is None else plain * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def block(self, name: str, x: Tensor) -> Tensor:
        heads, (b, n, c) = self.sizes["heads"], x.shape
        q, k, v = self.linear(f"{name}.qkv", self.norm(f"{name}.norm_1", x)).reshape(b, n, 3, heads, c // heads).unbind(2)
        weights = torch.einsum("bnhd,bmhd->bhnm", q, k).div(math.sqrt(c // heads)).softmax(-1)
        x = x + self.linear(f"{name}.out", torch.einsum("bhnm,bmhd->bnhd", weights, v).reshape(b, n, c))
        return x + self.linear(f"{name}.down", F.gelu(self.linear(f"{name}.up", self.norm(f"{name}.norm_2", x))))

    def conditions(self, tokens: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Conditions [B, N, W] of tokens [B, N, C] of which those with mask [B, N] 1 are hidden."""
        b, buffer = len(tokens), self.sizes["buffer"]
        x = torch.cat([torch.zeros(b, buffer, self.sizes["width"]), self.linear("project", tokens)], dim=1)
        x[:, :buffer] = self.w["labels.weight"][labels][:, None]
        x = self.norm("first_norm", x + self.w["encoder_positions"])
        visible = torch.cat([torch.ones(b, buffer), 1 - mask], dim=1).bool()
        x = x[visible].reshape(b, -1, x.shape[2])
        for number in range(self.sizes["depth"]):
            x = self.block(f"encoder.{number}", x)
        x = self.linear("between", self.norm("encoder_norm", x))
        full = self.w["mask_token"].repeat(b, buffer + self.tokens, 1)
        full[visible] = x.reshape(-1, x.shape[2])
        x = full + self.w["decoder_positions"]
        for number in range(self.sizes["depth"]):
            x = self.block(f"decoder.{number}", x)
        return self.norm("decoder_norm", x)[:, buffer:] + self.w["head_positions"]

    def head(self, x: Tensor, steps: Tensor, conditions: Tensor) -> Tensor:
        """Outputs [T, 2C] of the MLP for x [T, C], steps [T] and conditions [T, W]."""
        half = 128
        frequencies = torch.exp(-math.log(10000) * torch.arange(half) / half)
        angles = steps.float()[:, None] * frequencies
        time = self.linear("head.time.mlp.0", torch.cat([angles.cos(), angles.sin()], dim=1))
        y = F.silu(self.linear("head.time.mlp.2", F.silu(time)) + self.linear("head.condition", conditions))
        x = self.linear("head.tokens", x)
        for number in range(self.sizes["head_depth"]):
            shift, scale, gate = self.linear(f"head.blocks.{number}.modulation", y).chunk(3, dim=1)
            hidden = self.norm(f"head.blocks.{number}.norm", x) * (1 + scale) + shift
            x = x + gate * self.linear(f"head.blocks.{number}.down", F.silu(self.linear(f"head.blocks.{number}.up", hidden)))
        shift, scale = self.linear("head.modulation", y).chunk(2, dim=1)
        return self.linear("head.final", self.norm(None, x) * (1 + scale) + shift)

    def loss(self, tokens: Tensor, mask: Tensor, labels: Tensor, steps: Tensor, noise: Tensor) -> Tensor:
        """The loss of the batch: tokens [B, N, C], mask [B, N], steps [R, B, N], noise [R, B, N, C]; every token goes through the head, and
        the mask weights their losses."""
        repeats, channels = len(steps), tokens.shape[2]
        z = self.conditions(tokens, mask, labels).repeat(repeats, 1, 1).flatten(0, 1)
        target, k, eps = tokens.repeat(repeats, 1, 1).flatten(0, 1), steps.flatten(), noise.flatten(0, 2)
        bar = alphas_bar()
        before = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
        at = {"bar": bar[k][:, None].float(), "before": before[k][:, None].float(), "beta": (1 - bar / before)[k][:, None].float()}
        x = at["bar"].sqrt() * target + (1 - at["bar"]).sqrt() * eps
        out = self.head(x, k, z)
        mean_error = (out[:, :channels] - eps).square().mean(1)
        bound = self._bound(out, target, x, k, bar, before)
        return ((mean_error + bound) * mask.repeat(repeats, 1).flatten()).sum() / mask.repeat(repeats, 1).sum()

    def _bound(self, out: Tensor, target: Tensor, x: Tensor, k: Tensor, bar: Tensor, before: Tensor) -> Tensor:
        """KL divergence in bits per number, or the decoder's likelihood at step 0; no gradient to the predicted noise."""
        channels = target.shape[1]
        beta = 1 - bar / before
        variance = beta * (1 - before) / (1 - bar)
        log_variance = torch.cat([variance[1:2], variance[1:]]).log()
        one, two = (beta * before.sqrt() / (1 - bar))[k][:, None], ((1 - before) * (1 - beta).sqrt() / (1 - bar))[k][:, None]
        eps = out[:, :channels].detach().double()
        found = (x - (1 - bar).sqrt()[k][:, None] * eps) / bar.sqrt()[k][:, None]
        share = (out[:, channels:].double() + 1) / 2
        made = share * beta.log()[k][:, None] + (1 - share) * log_variance[k][:, None]
        true_mean, mean = one * target + two * x, one * found + two * x
        true = log_variance[k][:, None]
        divergence = 0.5 * (made - true - 1 + (true - made).exp() + (true_mean - mean).square() * (-made).exp())
        phi = lambda v: 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))  # noqa: E731
        inverse = (-0.5 * made).exp()
        above, below = phi((target - mean + 1 / 255) * inverse), phi((target - mean - 1 / 255) * inverse)
        above, below = torch.where(target > 0.999, 1.0, above), torch.where(target < -0.999, 0.0, below)
        likelihood = -(above - below).clamp(min=1e-12).log()
        return (torch.where(k[:, None] == 0, likelihood, divergence).mean(1) / math.log(2)).float()

    def sample(
        self,
        labels: Tensor,
        orders: Tensor,
        *,
        rounds: int,
        head_steps: int,
        guidance: float,
        linear: bool,
        temperature: float,
        limit: float,
        start: Tensor,
        fresh: Callable[[int, int, Tensor], Tensor],
    ) -> tuple[Tensor, list[Tensor]]:
        """Tokens [B, N, C], and which were made in each round [B, N]. ``orders`` [B, N]: places, the last of which are made first;
        ``start`` [B, N, C]: first noise; ``fresh``: (round, step, places [B, n]) -> noise [B, n, C]."""
        b, n, channels = len(labels), self.tokens, start.shape[2]
        mask, tokens, history = torch.ones(b, n), torch.zeros(b, n, channels), []
        for step in range(rounds):
            z = self.conditions(tokens, mask, labels)
            null = self.conditions(tokens, mask, torch.full_like(labels, self.sizes["classes"]))
            length = math.floor(n * math.cos(math.pi / 2 * (step + 1) / rounds))
            length = max(1, min(int(mask[0].sum()) - 1, length))
            following = torch.zeros(b, n).scatter(1, orders[:, :length], 1.0)
            now = mask.bool() if step == rounds - 1 else torch.logical_xor(mask.bool(), following.bool())
            weight = 1 + (guidance - 1) * (n - length) / n if linear else guidance
            places = torch.stack([order[torch.isin(order, row.nonzero()[:, 0])].flip(0) for order, row in zip(orders, now, strict=True)])
            picked = places[:, :, None].expand(-1, -1, channels)
            wide = places[:, :, None].expand(-1, -1, z.shape[2])
            made = self._token(
                z.gather(1, wide).flatten(0, 1), null.gather(1, wide).flatten(0, 1), start.gather(1, picked).flatten(0, 1), weight,
                head_steps, temperature, limit, lambda k, step=step, places=places: fresh(step, k, places).flatten(0, 1),
            )  # fmt: skip
            tokens = tokens.scatter(1, picked, made.unflatten(0, places.shape))
            history.append(now)
            mask = following
        return tokens, history

    def _token(self, z: Tensor, null: Tensor, x: Tensor, weight: float, head_steps: int, temperature: float, limit: float, fresh) -> Tensor:
        """Tokens [T, C] by ancestral sampling from noise x [T, C] under conditions z and null [T, W]."""
        kept, channels = respaced(1000, head_steps), x.shape[1]
        bar = alphas_bar()[kept]
        before = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
        beta = 1 - bar / before
        variance = beta * (1 - before) / (1 - bar)
        low = torch.cat([variance[1:2], variance[1:]]).log()
        for place in reversed(range(head_steps)):
            steps = torch.full((len(x),), kept[place])
            out, other = self.head(x, steps, z), self.head(x, steps, null)
            eps = other[:, :channels] + weight * (out[:, :channels] - other[:, :channels])
            share = (out[:, channels:] + 1) / 2
            log_variance = share * beta[place].log().float() + (1 - share) * low[place].float()
            data = ((x - float((1 - bar[place]).sqrt()) * eps) / float(bar[place].sqrt())).clamp(-limit, limit)
            one = float(beta[place] * before[place].sqrt() / (1 - bar[place]))
            two = float((1 - before[place]) * (1 - beta[place]).sqrt() / (1 - bar[place]))
            x = one * data + two * x
            if place:
                x = x + (0.5 * log_variance).exp() * fresh(head_steps - 1 - place) * temperature
        return x
