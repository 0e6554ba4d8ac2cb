"""Self-distillation (DINO, arXiv 2104.14294; DINOv2, arXiv 2304.07193): a student learns to predict its moving average, the teacher, from
other views of an image.

The losses are three of lightly's: DINO on the class token of two large and several small views; iBOT (arXiv 2111.07832) on patches that are
masked for the student in a large view; KoLeo, which spreads the class tokens. They compare the images of a batch, so a batch is never split
into micro-batches.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from svgbench.config.networks import Training
from svgbench.machine.order import Batch
from svgbench.machine.training import adam
from svgbench.nets import draws
from svgbench.pretraining.families import open_trainable
from svgbench.pretraining.pictures import OnDevice
from svgbench.pretraining.shipped import Job, Shipped
from svgbench.pretraining.views import view


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What both recipes of self-distillation set."""

    small: int = 2
    """Number of small views, of half the side, of an image; there are always two large ones."""
    large_area: tuple[float, float] = (0.5, 1.0)
    small_area: tuple[float, float] = (0.25, 0.5)
    prototypes: int = 512
    hidden: float = 0.4
    """Share of patches that are masked for the student, in half of the large views."""
    teacher_temperature: float = 0.05
    momentum: float = 0.99
    """Decay of the teacher's moving average at the start; it rises to 1 along a cosine."""
    koleo: float = 0.1
    widened: bool = False
    """Whether the blocks are initialised by Glorot's rule instead of the library's."""
    decays_patches: bool = False
    """Whether weight decay also applies to the patch embedding, as in DINOv2."""


@dataclass(frozen=True, kw_only=True)
class Views(Settings):
    """Settings of the encoders for ``shapes``."""

    light: float = 0.4
    patches_answer: bool = False
    """Whether the DINO loss also applies to the mean patch token. With the class token alone, a short training of the tiny DINOv3 gave a
    linear probe of 61 % on the class token, but 37 % on the patches, which are the latents."""


class Student(nn.Module):
    """A ViT with a head for the class token and one for patches, and learned pixels for masked patches."""

    network: Any
    """A ViT of timm."""

    def __init__(self, network: Any, pixels: nn.Module, *, head: Callable[[int], nn.Module]) -> None:
        """``head``: makes a head for tokens of a width."""
        super().__init__()
        self.network, self.pixels = network, pixels
        self.patch, self.prefix = network.patch_embed.patch_size[0], network.num_prefix_tokens
        self.image_head, self.patch_head = head(network.embed_dim), head(network.embed_dim)
        # the patch embedding is linear, so a learned patch of pixels is equivalent to a learned mask token, for every ViT
        self.mask_patch = nn.Parameter(torch.zeros(3, self.patch, self.patch))

    def forward(self, images: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Class token [B, C] and patch tokens [B, N, C] of images [B, 3, H, W] in [0, 1]; ``hidden`` [B, h, w]: patches to mask."""
        pixels = self.pixels(images)
        if hidden is not None:
            grid = hidden.shape[-1]
            where = hidden[:, None].repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
            pixels = torch.where(where, self.mask_patch.repeat(1, grid, grid), pixels)
        tokens = self.network.forward_features(pixels)
        return tokens[:, 0], tokens[:, self.prefix :]


class SelfDistillation(OnDevice, ABC):
    """What both recipes share: the student is trained by gradient, the teacher is its moving average."""

    averaged = None

    def __init__(self, student: Student, teacher: Student, job: Job, settings: Settings, stream: int, losses: dict[str, nn.Module]) -> None:
        """``losses``: those with a state (centres of the teacher's answers), by name."""
        teacher.load_state_dict(student.state_dict())
        self.student, self.teacher = student, teacher.requires_grad_(False)
        self.pictures, self.settings, self.stream, self.total = job.pictures, settings, stream, job.training.total_images
        device = job.pictures.images.device
        self.modules = {"student": student, "teacher": self.teacher, **{name: loss.to(device) for name, loss in losses.items()}}
        self.optimisers = {"student": adam(_groups(student, job.training, settings.decays_patches), job.training.optimiser)}

    @abstractmethod
    def update(self, batch: Batch, apply: Callable[[str], None]) -> dict[str, Tensor]:
        """One update of the student and of the teacher; returns the losses, each a scalar."""

    def hidden(self, batch: Batch, count: int, grid: int) -> Tensor:
        """Patches that are masked for the student: bool [count, grid, grid]; a fixed share in half of the views, none in the others."""
        numbers = batch.positions.repeat(2) * 2 + torch.arange(2, device=batch.positions.device).repeat_interleave(len(batch))
        u = draws.uniform(draws.stream(self.stream, "hidden"), numbers, (grid * grid + 1,))
        rank = u[:, 1:].argsort(1).argsort(1)
        hidden = (rank < round(self.settings.hidden * grid * grid)) & (u[:, :1] < 0.5)
        hidden[0, 0] |= ~hidden.any()  # the iBOT loss needs at least one masked patch in every batch
        return hidden.reshape(count, grid, grid)

    @torch.no_grad()
    def follow(self, batch: Batch) -> None:
        """teacher <- m teacher + (1 - m) student, where m rises to 1 during training."""
        progress = batch.images_seen / self.total
        momentum = 1 - (1 - self.settings.momentum) * (math.cos(math.pi * progress) + 1) / 2
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1 - momentum)


class Distillation(SelfDistillation):
    """A training task with the losses of DINOv2."""

    def __init__(self, student: Student, teacher: Student, job: Job, views: Views, stream: int) -> None:
        from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss

        self.views, heat = views, views.teacher_temperature
        self.dino = DINOLoss(views.prototypes, teacher_temp=heat, warmup_teacher_temp=heat)
        self.ibot, self.koleo = IBOTPatchLoss(views.prototypes, teacher_temp=heat), KoLeoLoss()
        super().__init__(student, teacher, job, views, stream, {"dino": self.dino, "ibot": self.ibot})

    def update(self, batch: Batch, apply: Callable[[str], None]) -> dict[str, Tensor]:
        """One update of the student and of the teacher; returns the losses, each a scalar."""
        large, small = self._views(batch)
        with torch.no_grad():
            teacher_image, teacher_patches = self.teacher(large)
            targets = list(self.teacher.image_head(teacher_image).chunk(2))
        hidden = self.hidden(batch, len(large), large.shape[-1] // self.student.patch)
        image, patches = self.student(large, hidden)
        seen = [(2, image, patches)] + ([] if small is None else [(self.views.small, *self.student(small))])
        answers = [answer for count, token, _ in seen for answer in self.student.image_head(token).chunk(count)]
        if self.views.patches_answer:
            answers += [answer for count, _, tokens in seen for answer in self.student.image_head(tokens.mean(1)).chunk(count)]
        losses = {"dino": self.dino(targets, answers)}
        chosen = hidden.flatten(1)
        with torch.no_grad():
            patch_targets = self.teacher.patch_head(teacher_patches[chosen])
        losses["ibot"] = self.ibot(patch_targets, self.student.patch_head(patches[chosen]), hidden)
        spread = sum(self.koleo(half) for half in image.chunk(2))
        (losses["dino"] + losses["ibot"] + self.views.koleo * spread).backward()
        apply("student")
        self.follow(batch)
        return {**{name: loss.detach() for name, loss in losses.items()}, "koleo": spread.detach()}

    def _views(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The large views [2 B, 3, S, S] and the small views [n B, 3, S / 2, S / 2]; None for ``small`` 0."""
        images, light = self.pictures.floats(batch.indices), self.views.light

        def stack(kind: str, count: int, size: int, area: tuple[float, float]) -> Tensor:
            streams = [draws.stream(self.stream, f"{kind}/{number}") for number in range(count)]
            return torch.cat([view(images, batch.positions, stream=s, size=size, area=area, light=light) for s in streams])

        large = stack("large", 2, self.pictures.side, self.views.large_area)
        return large, stack("small", self.views.small, self.pictures.side // 2, self.views.small_area) if self.views.small else None


def _groups(student: nn.Module, training: Training, patches: bool) -> list[dict[str, object]]:
    """Parameter groups: matrices, and with ``patches`` the patch embedding, with weight decay; biases, norms and tokens without."""
    parameters, decayed = [p for p in student.parameters() if p.requires_grad], (2, 4) if patches else (2,)
    return [
        {"params": [p for p in parameters if p.ndim in decayed], "weight_decay": training.optimiser.weight_decay},
        {"params": [p for p in parameters if p.ndim not in decayed], "weight_decay": 0.0},
    ]


def _widen(student: Student) -> None:
    """Initialises the blocks again by Glorot's rule. timm initialises DINOv3's linear layers with a standard deviation of 0.02, which suits
    widths near 1000. At width 96, and with a gated MLP, the outputs of the blocks are then very small: after 250 updates the mean patch
    token was still a linear map of the mean colour."""
    for module in student.network.blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)


def distilled(
    job: Job, family: str, settings: Settings, head: Callable[[int], nn.Module], kind: Callable[..., SelfDistillation]
) -> Shipped:
    """A task of this kind; ``head``: makes a head for tokens of a width."""
    seed = draws.stream(job.seed, family)
    student, teacher = (Student(*open_trainable(job.card, seed), head=head).to(job.runtime.torch_device) for _ in range(2))
    if settings.widened:
        _widen(student)
    task = kind(student, teacher, job, settings, seed)
    return Shipped(task, task.teacher.network, averaged=False)


def _with_heads(job: Job, family: str, views: Views) -> Shipped:
    from lightly.models.modules import DINOProjectionHead

    return distilled(job, family, views, lambda width: DINOProjectionHead(width, 256, 64, views.prototypes), Distillation)


def dinov2(job: Job) -> Shipped:
    """The tiny DINOv2: a ViT with registers."""
    return _with_heads(job, "dinov2", Views())


def dinov3(job: Job) -> Shipped:
    """The tiny DINOv3: rotary positions, gated MLP, registers."""
    return _with_heads(job, "dinov3", Views(patches_answer=True, widened=True))
