"""MAR: masked autoregressive generation with a diffusion loss (Li et al. 2024, arXiv 2406.11838).

An encoder sees the tokens that exist, a decoder gives every absent token a condition, and a small MLP (the head) turns noise into the token
under this condition by DDPM. Training hides a random share of the tokens and applies DDPM's loss to the hidden ones. Sampling makes the
tokens in rounds, in a random order; more in each round than in the one before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svgbench.config.choices import hidden_share, left_after, parse_schedule
from svgbench.config.sampling import SamplingProtocol
from svgbench.config.schema import Diffusion
from svgbench.errors import BadConfig
from svgbench.nets import ddpm, draws
from svgbench.nets.blocks import TimeEmbedding, modulate
from svgbench.nets.execution import BlockList, checkpointable
from svgbench.nets.guidance import guide
from svgbench.nets.plain_block import BlockMasks, Dropout, PlainBlock
from svgbench.nets.precision import Precision, products_in
from svgbench.nets.training_pair import TrainingPair

# B batch, N tokens of a latent, C numbers of a token, W width, m hidden tokens, R repetitions

INITIAL_STD = 0.02
"""Standard deviation of initial embeddings."""


class Hidden(NamedTuple):
    """What a training pair holds in the place of a time."""

    kept: Tensor
    """Places of the visible tokens, int64 [B, N - m]."""
    hidden: Tensor
    """Places of the hidden tokens, int64 [B, m]."""
    noised: Tensor
    """Hidden tokens with noise, [B, R, m, C]."""
    steps: Tensor
    """Their steps of the noise schedule, int64 [B, R, m]."""
    positions: Tensor
    """Global positions of the images [B], for dropout."""
    seed: int
    """Stream of the dropout."""


class HeadBlock(nn.Module):
    """Norm and MLP on tokens [..., W], shifted, scaled and gated by a condition [..., W]."""

    checkpointing = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        self.modulation = nn.Linear(width, 3 * width)

    @checkpointable
    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(condition).chunk(3, dim=-1)
        return x + gate * self.down(F.silu(self.up(modulate(self.norm(x), shift, scale))))


class Head(nn.Module):
    """Noise and variance [T, 2C] in tokens [T, C] at steps [T], each under its condition [T, Z]."""

    def __init__(self, *, channels: int, conditions: int, width: int, depth: int) -> None:
        super().__init__()
        self.time = TimeEmbedding(width)
        self.condition, self.tokens = nn.Linear(conditions, width), nn.Linear(channels, width)
        self.blocks = BlockList(HeadBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(width, 2 * width)
        self.final = nn.Linear(width, 2 * channels)

    def forward(self, x: Tensor, steps: Tensor, conditions: Tensor) -> Tensor:
        condition = F.silu(self.time(steps) + self.condition(conditions))
        tokens = self.tokens(x).to(x.dtype)
        for block in self.blocks.called(tokens, condition):
            tokens = block(tokens, condition)
        shift, scale = self.modulation(condition).chunk(2, dim=-1)
        return self.final(modulate(self.norm(tokens), shift, scale))


class MAR(nn.Module):
    """MAR on latents [B, C, h, w]; ``classes`` is the null label."""

    objective = "mar"

    def __init__(
        self,
        *,
        channels: int,
        grid: int,
        width: int,
        depth: int,
        heads: int,
        classes: int,
        mlp_ratio: float,
        patch: int,
        buffer: int,
        dropout: float,
        attention_dropout: float,
        head_width: int,
        head_depth: int,
    ) -> None:
        """``grid``: latent positions per side; a token covers ``patch`` by ``patch`` positions; ``depth``: blocks of the encoder, and of
        the decoder; ``buffer``: class tokens before the latent's tokens."""
        self_sizes = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.sizes: dict[str, Any] = self_sizes  # the arguments with which the same network can be built again
        if grid % patch:
            raise BadConfig(f"a latent grid of {grid} does not divide into tokens of {patch}; use a patch that divides it.")
        if width % heads:
            raise BadConfig(f"a transformer of width {width} with {heads} heads cannot be built; use a width that is a multiple of heads.")
        self.channels, self.grid, self.patch, self.classes, self.buffer = channels, grid, patch, classes, buffer
        self.width, self.depth, self.count = width, depth, (grid // patch) ** 2
        inputs, hidden = channels * patch * patch, round(width * mlp_ratio)
        self.project = nn.Linear(inputs, width)
        self.labels = nn.Embedding(classes + 1, width)
        self.encoder_positions = nn.Parameter(torch.empty(1, buffer + self.count, width))
        self.first_norm = nn.LayerNorm(width, eps=1e-6)
        self.encoder = BlockList(PlainBlock(width, heads, hidden) for _ in range(depth))
        self.encoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.between = nn.Linear(width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.decoder_positions = nn.Parameter(torch.empty(1, buffer + self.count, width))
        self.decoder = BlockList(PlainBlock(width, heads, hidden) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.head_positions = nn.Parameter(torch.empty(1, self.count, width))
        self.head = Head(channels=inputs, conditions=width, width=head_width, depth=head_depth)
        self.chain = ddpm.Chain(schedule="cosine")
        alike: dict[str, Any] = {"width": width, "heads": heads, "mlp": hidden, "dropout": dropout, "attention_dropout": attention_dropout}
        self._dropout = {name: Dropout(f"mar/{name}", **alike) for name in ("encoder", "decoder")}
        self._initialise()

    def _initialise(self) -> None:
        """Xavier for matrices, small normal embeddings, zero modulations and output of the head."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        embeddings = (self.labels.weight, self.encoder_positions, self.mask_token, self.decoder_positions, self.head_positions)
        for weight in (*embeddings, *(layer.weight for layer in self.head.time.mlp if isinstance(layer, nn.Linear))):
            nn.init.normal_(weight, std=INITIAL_STD)
        gates = [module.modulation for module in self.head.modules() if isinstance(module, HeadBlock)]
        for layer in (self.head.final, self.head.modulation, *gates):
            nn.init.zeros_(layer.weight)

    def compile_for_sampling(self) -> None:
        """Compiles what ``generate`` calls, in place: the blocks, whose rounds differ in the number of tokens, and the head."""
        self.encoder.compile()
        self.decoder.compile()
        self.head.compile(dynamic=True)

    def compile_blocks(self) -> None:
        """Compiles the blocks in place."""
        for blocks in (self.encoder, self.decoder, self.head.blocks):
            blocks.compile()

    def tokens(self, x: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> tokens [B, N, C * patch * patch]."""
        return F.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2)

    def latents(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, C * patch * patch] -> latents [B, C, h, w]."""
        side = self.grid // self.patch
        return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (side, side)), self.patch)

    def conditions(self, tokens: Tensor, labels: Tensor, kept: Tensor, positions: Tensor | None = None, seed: int = 0) -> Tensor:
        """The condition [B, N, W] of every token, from those of ``tokens`` [B, N, C] at the places ``kept`` [B, k] and from labels [B].
        ``positions`` [B] (global sample counters): given in training; dropout depends on them and on ``seed``."""
        x, start = self.project(_at(tokens, kept)).to(tokens.dtype), self.buffer
        whole = self.encoder_positions.expand(len(x), -1, -1)
        x = torch.cat([self.labels(labels)[:, None].expand(-1, start, -1), x], dim=1)
        x = self.first_norm(x + torch.cat([whole[:, :start], _at(whole[:, start:], kept)], dim=1))
        x = self.between(self.encoder_norm(self._through("encoder", x, positions, seed))).to(tokens.dtype)
        absent = self.mask_token.to(x.dtype).expand(len(x), self.count, -1)
        every = absent.scatter(1, kept[:, :, None].expand(-1, -1, self.width), x[:, start:])
        x = torch.cat([x[:, :start], every], dim=1) + self.decoder_positions
        return self.decoder_norm(self._through("decoder", x, positions, seed))[:, start:] + self.head_positions

    def _through(self, name: str, x: Tensor, positions: Tensor | None, seed: int) -> Tensor:
        """Tokens [B, n, W] after the blocks of the encoder or the decoder."""
        blocks: BlockList = getattr(self, name)
        masks = [BlockMasks()] * self.depth
        if positions is not None:
            masks = self._dropout[name].masks(positions, seed, tokens=x.shape[1], blocks=self.depth)[1]
        of_first = masks[0] if masks else BlockMasks()
        for block, of_block in zip(blocks.called(x, *(mask.keep for mask in of_first if mask)), masks, strict=True):
            x = block(x, of_block)
        return x

    def forward(self, x: Tensor, time: Hidden, labels: Tensor, tap: int | None = None) -> Tensor:
        """The head's outputs [B, R, m, 2C] at the hidden tokens of clean latents x [B, C, h, w], in training."""
        made = self.conditions(self.tokens(x), labels, time.kept, time.positions, time.seed)
        condition = _at(made, time.hidden)[:, None].expand(-1, time.noised.shape[1], -1, -1)
        outputs = self.head(time.noised.flatten(0, 2), time.steps.flatten(), condition.flatten(0, 2))
        return outputs.unflatten(0, time.steps.shape)


def _at(tokens: Tensor, places: Tensor) -> Tensor:
    """Tokens [B, k, C] of [B, N, C] at places [B, k]."""
    return tokens.gather(1, places[:, :, None].expand(-1, -1, tokens.shape[2]))


def hidden_count(update: int, tokens: int, stream: int, least: float) -> int:
    """Number of hidden tokens of all images of an update."""
    return min(tokens, math.ceil(tokens * hidden_share(float(draws.uniform(stream, torch.tensor([update]))), least)))


def drawn(positions: Tensor, tokens: int, stream: int, settings: Diffusion) -> dict[str, Tensor]:
    """Which tokens of images at global positions [B] are hidden: places ``kept`` [B, N - m] and ``hidden`` [B, m]. All images of an update
    have the same number, drawn on the host, so that no update waits for a GPU."""
    update = int(positions[0]) // settings.training.batch if len(positions) else 0
    count = hidden_count(update, tokens, draws.stream(stream, "count"), settings.mar.least_hidden)
    order = draws.uniform(draws.stream(stream, "order"), positions, (tokens,)).argsort(1)
    return {"hidden": order[:, :count].contiguous(), "kept": order[:, count:].contiguous()}


def training_pair(
    model: MAR, data: Tensor, positions: Tensor, noise: int, time: int, settings: Diffusion, labels: Tensor, held: Mapping[str, Tensor]
) -> TrainingPair:
    """The training pair of latents [B, C, h, w] at global positions [B] with the hidden tokens that ``held`` names (``drawn``): each with
    R times its own step and noise, drawn from two streams. The target is the noise [B, R, m, C]."""
    tokens, repeats = model.tokens(data), settings.mar.repeats
    hidden = _at(tokens, held["hidden"])[:, None]
    shape = (repeats, hidden.shape[2])
    steps = (draws.uniform(time, positions, shape) * ddpm.STEPS).long()
    eps = draws.normal(noise, positions, (*shape, tokens.shape[2]))
    signal, spread = (getattr(model.chain, table)[steps][..., None] for table in ("signal", "noise"))
    inputs = Hidden(held["kept"], held["hidden"], signal * hidden + spread * eps, steps, positions, noise)
    return TrainingPair(data, inputs, eps)


def losses(model: MAR, outputs: Tensor, data: Tensor, pair: TrainingPair) -> Tensor:
    """DDPM's loss of each image [B] float32 with a learned variance, averaged over its hidden tokens and their repetitions."""
    clean = _at(model.tokens(data), pair.time.hidden)[:, None].expand_as(pair.target)
    seen, target, made, whole = (x.flatten(0, 2)[..., None, None] for x in (pair.time.noised, pair.target, outputs, clean))
    of_tokens = ddpm.losses(model.chain, made, whole, TrainingPair(seen, pair.time.steps.flatten(), target))
    return of_tokens.unflatten(0, pair.time.steps.shape).flatten(1).mean(1)


@torch.no_grad()
def generate(model: MAR, noise: Tensor, labels: Tensor, sampling: SamplingProtocol, seed: int, indices: Tensor) -> Tensor:
    """Latents [B, C, h, w] for labels [B] in ``sampling.steps`` rounds; a token starts from ``noise`` [B, C, h, w] at its place. Order and
    further noise are drawn from ``seed`` and the samples' ``indices`` [B]. Guidance (``linear``: as MAR's, by the share of tokens that
    exist after the round, at most N - 1 of N) acts on the head's noise."""
    start, count = model.tokens(noise), model.count
    order = draws.uniform(draws.stream(seed, "mar/order"), indices, (count,)).argsort(1)
    schedule, chain = parse_schedule(sampling.schedule), ddpm.Chain(sampling.head_steps, "cosine").to(noise.device)
    tokens, made = torch.zeros_like(start), 0
    for number, end in enumerate([*(count - left for left in left_after(sampling.steps, count)), count]):
        weight = schedule.weight(sampling.guidance, made / count, min(end, max(1, count - 1)) - 1, count)
        now = order[:, made:end]
        epsilon = _Epsilon(model, tokens, labels, order[:, :made], now, weight, sampling)

        def draw(step: int, number: int = number, now: Tensor = now) -> Tensor:
            fresh = draws.normal(draws.stream(seed, f"mar/{number}/{step}"), indices, (now.shape[1], start.shape[2]))
            return sampling.temperature * fresh.to(noise.dtype).flatten(0, 1)[..., None, None]

        found = ddpm.ddpm(epsilon, _at(start, now).flatten(0, 1)[..., None, None], chain, draw, sampling.token_limit)
        tokens = tokens.scatter(1, now[:, :, None].expand(-1, -1, start.shape[2]), found.flatten(1).unflatten(0, now.shape))
        made = end
    return model.latents(tokens)


class _Epsilon:
    """The guided noise and variance [T, 2C, 1, 1] in the tokens [T, C, 1, 1] of one round, those at places ``now`` [B, n], T = B n."""

    def __init__(
        self, model: MAR, tokens: Tensor, labels: Tensor, kept: Tensor, now: Tensor, weight: float, sampling: SamplingProtocol
    ) -> None:
        """``tokens`` [B, N, C] exist at the places ``kept`` [B, k]. At weight 1 the null class is not evaluated."""
        self.head, self.weight, self.branches = model.head, weight, 1 if weight == 1 else 2
        precision: Precision | None = None if sampling.precision == "fp32" else sampling.precision
        self.head_precision: Precision | None = None if precision is None else "fp32"  # its first step divides errors by 5e-5
        asked = labels if weight == 1 else torch.cat([labels, torch.full_like(labels, model.classes)])
        with products_in(precision, tokens.device):
            conditions = model.conditions(tokens.repeat(self.branches, 1, 1), asked, kept.repeat(self.branches, 1))
        self.conditions = _at(conditions, now.repeat(self.branches, 1)).flatten(0, 1).to(tokens.dtype)

    def __call__(self, x: Tensor, k: int, step: int) -> Tensor:
        channels, steps = x.shape[1], torch.full((len(self.conditions),), k, device=x.device)
        with products_in(self.head_precision, x.device):
            outputs = self.head(x.flatten(1).repeat(self.branches, 1), steps, self.conditions).to(x.dtype)[..., None, None]
        if self.branches == 1:
            return outputs
        conditional, without = outputs.chunk(2)
        return torch.cat([guide(conditional[:, :channels], without[:, :channels], self.weight), conditional[:, channels:]], dim=1)
