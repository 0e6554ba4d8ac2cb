"""Self-distillation in which every patch answers, in other colours: the recipe of the encoders for ``scenes``.

As in DINO (arXiv 2104.14294) and DINOv2 (arXiv 2304.07193), a student learns to predict its moving average, the teacher. What differs, and
why (probes: ``reports/measured/tier.md``):

- The student's large views are the teacher's crops in other colours, and every patch of them answers, hidden or not. So a patch token may
  not depend on colour.
- The chroma of most views comes from another image. DINO loses colour over hundreds of epochs; in a training of minutes it did not.
- Prototypes are compared with the tokens themselves, without a head. A head lets the tokens keep what the loss ignores.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svgbench.machine.order import Batch
from svgbench.machine.training import adam
from svgbench.nets import draws
from svgbench.pretraining.distillation import Student, parameter_groups, widen
from svgbench.pretraining.families import open_trainable
from svgbench.pretraining.pictures import OnDevice
from svgbench.pretraining.shipped import Job, Shipped
from svgbench.pretraining.views import Colours, recoloured, view


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Views and losses."""

    small: int = 1
    """Number of small views, of half the side, of an image; there are always two large ones."""
    large_area: tuple[float, float] = (0.4, 1.0)
    small_area: tuple[float, float] = (0.15, 0.4)
    colours: Colours = field(default_factory=Colours)
    prototypes: int = 512
    hidden: float = 0.4
    """Share of patches that are masked for the student, in half of the large views."""
    teacher_temperature: float = 0.05
    momentum: float = 0.99
    """Decay of the teacher's moving average at the start; it rises to 1 along a cosine."""
    koleo: float = 0.1
    widened: bool = False
    """Whether the blocks are initialised by Glorot's rule instead of the library's."""


class Prototypes(nn.Module):
    """Cosines [N, K] of tokens [N, C] and K learned directions."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(count, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Cosines of tokens and directions."""
        return F.normalize(tokens, dim=-1) @ F.normalize(self.directions, dim=-1).T


class DenseDistillation(OnDevice):
    """A training task: the student is trained by gradient, the teacher is its moving average."""

    averaged = None

    def __init__(self, student: Student, teacher: Student, job: Job, settings: Settings, stream: int) -> None:
        from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss

        teacher.load_state_dict(student.state_dict())
        self.student, self.teacher = student, teacher.requires_grad_(False)
        self.pictures, self.settings, self.stream, self.total = job.pictures, settings, stream, job.training.total_images
        heat = {"teacher_temp": settings.teacher_temperature}
        of_tokens = {"warmup_teacher_temp": settings.teacher_temperature, **heat}
        self.of_image, self.of_mean = (DINOLoss(settings.prototypes, **of_tokens) for _ in range(2))
        self.of_patches, self.koleo = IBOTPatchLoss(settings.prototypes, **heat), KoLeoLoss()
        device = job.pictures.images.device
        losses = {"of-image": self.of_image, "of-mean": self.of_mean, "of-patches": self.of_patches}
        self.modules = {"student": student, "teacher": self.teacher, **{name: loss.to(device) for name, loss in losses.items()}}
        self.optimisers = {"student": adam(parameter_groups(student, job.training), job.training.optimiser)}

    def update(self, batch: Batch, apply: Callable[[str], None]) -> dict[str, Tensor]:
        """One update of the student and of the teacher; returns the losses, each a scalar."""
        shown, asked, small = self._views(batch)
        teacher, student = self.teacher, self.student
        with torch.no_grad():
            image, patches = teacher(shown)
            of_image, of_mean = teacher.image_head(image).chunk(2), teacher.patch_head(patches.mean(1)).chunk(2)
            of_patches = teacher.patch_head(patches.flatten(0, 1))
        hidden = self._hidden(batch, len(asked), asked.shape[-1] // student.patch)
        seen = [(2, *student(asked, hidden))] + ([] if small is None else [(self.settings.small, *student(small))])
        images = [answer for count, token, _ in seen for answer in student.image_head(token).chunk(count)]
        means = [answer for count, _, tokens in seen for answer in student.patch_head(tokens.mean(1)).chunk(count)]
        _, token, tokens = seen[0]
        losses = {
            "image": self.of_image(list(of_image), images),
            "mean": self.of_mean(list(of_mean), means),
            "patches": self.of_patches(of_patches, student.patch_head(tokens.flatten(0, 1)), torch.ones_like(hidden)),
        }
        spread = sum(self.koleo(half) for half in (*token.chunk(2), *tokens.mean(1).chunk(2)))
        (sum(losses.values()) + self.settings.koleo * spread).backward()
        apply("student")
        self._follow(batch)
        return {**{name: loss.detach() for name, loss in losses.items()}, "koleo": spread.detach()}

    def _views(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """The teacher's large views and the student's, which are the same crops in other colours, each [2 B, 3, S, S], and the small views
        [n B, 3, S / 2, S / 2]; None for ``small`` 0."""
        images, settings, side = self.pictures.floats(batch.indices), self.settings, self.pictures.side

        def coloured(crop: Tensor, name: str) -> Tensor:
            return recoloured(crop, batch.positions, stream=draws.stream(self.stream, name), colours=settings.colours)

        def crop(name: str, size: int, area: tuple[float, float]) -> Tensor:
            return view(images, batch.positions, stream=draws.stream(self.stream, name), size=size, area=area, light=0.0)

        large = [crop(f"large/{number}", side, settings.large_area) for number in range(2)]
        shown, asked = (torch.cat([coloured(crop, f"{role}/{n}") for n, crop in enumerate(large)]) for role in ("shown", "asked"))
        names = [f"small/{number}" for number in range(settings.small)]
        small = [coloured(crop(name, side // 2, settings.small_area), name) for name in names]
        return shown, asked, torch.cat(small) if small else None

    def _hidden(self, batch: Batch, count: int, grid: int) -> Tensor:
        """Patches that are masked for the student: bool [count, grid, grid]; a fixed share in half of the views, none in the others."""
        numbers = batch.positions.repeat(2) * 2 + torch.arange(2, device=batch.positions.device).repeat_interleave(len(batch))
        u = draws.uniform(draws.stream(self.stream, "hidden"), numbers, (grid * grid + 1,))
        rank = u[:, 1:].argsort(1).argsort(1)
        return ((rank < round(self.settings.hidden * grid * grid)) & (u[:, :1] < 0.5)).reshape(count, grid, grid)

    @torch.no_grad()
    def _follow(self, batch: Batch) -> None:
        """teacher <- m teacher + (1 - m) student, where m rises to 1 during training."""
        progress = batch.images_seen / self.total
        momentum = 1 - (1 - self.settings.momentum) * (math.cos(math.pi * progress) + 1) / 2
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1 - momentum)


def _distilled(job: Job, family: str, settings: Settings) -> Shipped:
    def head(width: int) -> nn.Module:
        return Prototypes(width, settings.prototypes)

    seed = draws.stream(job.seed, family)
    student, teacher = (Student(*open_trainable(job.card, seed), head=head).to(job.runtime.torch_device) for _ in range(2))
    if settings.widened:
        widen(student)
    task = DenseDistillation(student, teacher, job, settings, seed)
    return Shipped(task, task.teacher.network, averaged=False)


def dinov2(job: Job) -> Shipped:
    """DINOv2: a ViT with registers."""
    return _distilled(job, "dinov2", Settings())


def dinov3(job: Job) -> Shipped:
    """DINOv3: rotary positions, gated MLP, registers."""
    return _distilled(job, "dinov3", Settings(widened=True))
