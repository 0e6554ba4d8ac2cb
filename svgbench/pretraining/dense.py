"""Self-distillation in which every patch answers, in other colours: the recipe of the encoders for ``scenes``.

As in DINO (arXiv 2104.14294) and DINOv2 (arXiv 2304.07193), a student learns to predict its moving average, the teacher. What differs, and
why (probes: ``reports/measured/tier.md``):

- The student's large views are the teacher's crops in other colours, and every patch of them answers, hidden or not. So a patch token may
  not depend on colour.
- The chroma of every view comes from another image. DINO loses colour over hundreds of epochs; in a training of minutes it did not.
- Prototypes are compared with the tokens themselves, without a head. A head lets the tokens keep what the loss ignores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svgbench.machine.order import Batch
from svgbench.nets import draws
from svgbench.pretraining.distillation import SelfDistillation, Settings, Student, distilled
from svgbench.pretraining.shipped import Job, Shipped
from svgbench.pretraining.views import Colours, recoloured, view


@dataclass(frozen=True, kw_only=True)
class DenseSettings(Settings):
    """Settings of the encoders for ``scenes``."""

    small: int = 1
    decays_patches: bool = True
    agreement: float = 8.0
    """Weight of the mean cosine distance between the student's and the teacher's token of a patch at the end of the training; it rises
    linearly from 0."""
    large_area: tuple[float, float] = (0.4, 1.0)
    small_area: tuple[float, float] = (0.15, 0.4)
    colours: Colours = field(default_factory=Colours)


class Prototypes(nn.Module):
    """Cosines [N, K] of tokens [N, C] and K learned directions."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(count, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Cosines of tokens and directions."""
        return F.normalize(tokens, dim=-1) @ F.normalize(self.directions, dim=-1).T


class DenseDistillation(SelfDistillation):
    """A training task in which image, mean patch and every patch have prototypes and targets."""

    settings: DenseSettings

    def __init__(self, student: Student, teacher: Student, job: Job, settings: DenseSettings, stream: int) -> None:
        from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss

        count, heat = settings.prototypes, settings.teacher_temperature
        self.of_image, self.of_mean = (DINOLoss(count, teacher_temp=heat, warmup_teacher_temp=heat) for _ in range(2))
        self.of_patches, self.koleo = IBOTPatchLoss(count, teacher_temp=heat), KoLeoLoss()
        losses = {"of-image": self.of_image, "of-mean": self.of_mean, "of-patches": self.of_patches}
        super().__init__(student, teacher, job, settings, stream, losses)

    def update(self, batch: Batch, apply: Callable[[str], None]) -> dict[str, Tensor]:
        """One update of the student and of the teacher; returns the losses, each a scalar."""
        shown, asked, small = self._views(batch)
        teacher, student = self.teacher, self.student
        with torch.no_grad():
            image, patches = teacher(shown)
            of_image, of_mean = teacher.image_head(image).chunk(2), teacher.patch_head(patches.mean(1)).chunk(2)
            of_patches = teacher.patch_head(patches.flatten(0, 1))
        hidden = self.hidden(batch, len(asked), asked.shape[-1] // student.patch)
        seen = [(2, *student(asked, hidden))] + ([] if small is None else [(self.settings.small, *student(small))])
        images = [answer for count, token, _ in seen for answer in student.image_head(token).chunk(count)]
        means = [answer for count, _, tokens in seen for answer in student.patch_head(tokens.mean(1)).chunk(count)]
        _, token, tokens = seen[0]
        weight = self.settings.agreement * batch.images_seen / self.total
        losses = {
            "image": self.of_image(list(of_image), images),
            "mean": self.of_mean(list(of_mean), means),
            "patches": self.of_patches(of_patches, student.patch_head(tokens.flatten(0, 1)), torch.ones_like(hidden)),
            "agreement": weight * (1 - F.cosine_similarity(tokens, patches, dim=-1)).mean(),
        }
        spread = sum(self.koleo(half) for half in (*token.chunk(2), *tokens.mean(1).chunk(2)))
        (sum(losses.values()) + self.settings.koleo * spread).backward()
        apply("student")
        self.follow(batch)
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


def dinov2(job: Job) -> Shipped:
    """DINOv2: a ViT with registers."""
    return _dense(job, "dinov2", DenseSettings())


def dinov3(job: Job) -> Shipped:
    """DINOv3: rotary positions, gated MLP, registers."""
    return _dense(job, "dinov3", DenseSettings(widened=True))


def _dense(job: Job, family: str, settings: DenseSettings) -> Shipped:
    return distilled(job, family, settings, lambda width: Prototypes(width, settings.prototypes), DenseDistillation)
