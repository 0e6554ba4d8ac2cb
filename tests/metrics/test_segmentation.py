"""mIoU by hand, ignored pixels, and a head that finds what is there."""

from __future__ import annotations

import pytest
import torch

from svgbench.config.scoring import Segmentation
from svgbench.errors import BadData
from svgbench.metrics.protocol import ImageGroup
from svgbench.metrics.segmentation import (
    areas,
    areas_of,
    class_figures,
    fit_head,
    loss_gradient,
    means,
    segmentation_scores,
    upsampling_matrix,
)


def scene(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents [N, 5, 4, 4] whose cells carry the class that their 4x4 pixels have."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(3, (count, 4, 4), generator=generator)
    codes = torch.randn(3, 5, generator=torch.Generator().manual_seed(9))
    latents = codes[cells].permute(0, 3, 1, 2) + 0.1 * torch.randn(count, 5, 4, 4, generator=generator)
    return latents, cells.repeat_interleave(4, 1).repeat_interleave(4, 2).byte()


def test_miou_by_hand():
    truth = torch.tensor([[[0, 0, 1, 1]], [[2, 2, 2, 255]]], dtype=torch.uint8)
    predicted = torch.tensor([[[0, 1, 1, 1]], [[2, 0, 2, 1]]])
    iou, accuracy = means(areas_of(predicted, truth, 4))
    assert iou.item() == pytest.approx(100 * (1 / 3 + 2 / 3 + 2 / 3) / 3)
    assert accuracy.item() == pytest.approx(100 * (1 / 2 + 1 + 2 / 3) / 3)


def test_miou_equals_torchmetrics_over_the_whole_set():
    from torchmetrics.functional.classification import multiclass_jaccard_index

    generator = torch.Generator().manual_seed(0)
    truth, predicted = (torch.randint(5, (6, 8, 8), generator=generator) for _ in range(2))
    iou, _ = means(areas_of(predicted, truth.byte(), 5))
    assert iou.item() == pytest.approx(100 * multiclass_jaccard_index(predicted, truth, num_classes=5).item(), rel=1e-5)


def test_a_class_that_is_predicted_but_absent_counts_as_zero_and_one_that_is_neither_does_not_count():
    iou, accuracy = means(areas_of(torch.tensor([[[0, 1]]]), torch.zeros(1, 1, 2, dtype=torch.uint8), 3))
    assert iou.item() == pytest.approx(25.0)
    assert accuracy.item() == pytest.approx(50.0)


def test_counting_an_image_twice_equals_having_it_twice():
    generator = torch.Generator().manual_seed(0)
    truth, predicted = (torch.randint(5, (3, 8, 8), generator=generator) for _ in range(2))
    found = areas_of(predicted, truth.byte(), 5)
    doubled = areas_of(predicted[[0, 0, 2]], truth[[0, 0, 2]].byte(), 5)
    assert means(found, torch.tensor([[2.0, 0.0, 1.0]]).double())[0].item() == pytest.approx(means(doubled)[0].item())


def test_class_figures_by_hand():
    truth = torch.tensor([[[0, 0, 1, 1]], [[2, 2, 2, 255]]], dtype=torch.uint8)
    found = class_figures(areas_of(torch.tensor([[[0, 1, 1, 1]], [[2, 0, 2, 1]]]), truth, 4), ["a", "b", "c", "d"])
    assert [(f["class"], f["name"], f["pixels"]) for f in found] == [(1, "a", 2), (2, "b", 2), (3, "c", 3), (4, "d", 0)]
    assert [f["iou"] for f in found[:3]] == pytest.approx([100 / 3, 200 / 3, 200 / 3]) and found[3]["iou"] is None
    assert found[0]["accuracy"] == 50.0 and found[3]["accuracy"] is None


def test_the_written_out_gradient_is_autograds():
    generator = torch.Generator().manual_seed(0)
    cells = torch.randn(2, 5, 3, 4, generator=generator, requires_grad=True)
    target = torch.randint(5, (2, 9, 10), generator=generator).byte()
    target[0, :4] = 255
    enlarged = torch.nn.functional.interpolate(cells, size=(9, 10), mode="bilinear", align_corners=False)
    torch.nn.functional.cross_entropy(enlarged, target.long(), ignore_index=255).backward()
    found = loss_gradient(cells.detach(), target, upsampling_matrix(3, 9, cells.device), upsampling_matrix(4, 10, cells.device))
    torch.testing.assert_close(found, cells.grad)


def test_the_head_finds_classes_that_latents_carry():
    head = fit_head(*scene(200), 3, Segmentation(epochs=4, batch=20, lr=0.05))
    iou, accuracy = means(areas(head, *scene(50, seed=1), 3))
    assert iou.item() > 65 and accuracy.item() > 75
    latents, masks = scene(50, seed=1)
    shuffled, _ = means(areas(head, latents.roll(1, 0), masks, 3))
    assert shuffled.item() < 35


def test_an_image_without_pixels_that_count_breaks_nothing():
    latents, masks = scene(20)
    masks[:10] = 255
    head = fit_head(latents, masks, 3, Segmentation(epochs=2, batch=5))
    assert head.weight.isfinite().all()
    assert areas(head, latents, masks, 3).truth[:10].sum() == 0


def test_scores_carry_intervals_and_the_latents_name():
    groups = {
        "train_images": ImageGroup(name="train", count=60, digest="ab" * 32),
        "val_images": ImageGroup(name="val", count=40, digest="ef" * 32),
    }
    found = segmentation_scores(scene(60), scene(40, seed=1), classes=3, settings=Segmentation(epochs=1), latents="features", **groups)
    assert [s.metric for s in found] == ["miou", "macc"]
    for score in found:
        assert 0 < score.low < score.value < score.high <= 100 and score.count == 40
        assert score.protocol.text.startswith("seg-linear/train-60@abababab/val-40@efefefef/3classes/settings@")


def test_masks_of_another_data_set_are_refused():
    latents, masks = scene(20)
    with pytest.raises(BadData, match="class 2, but there are 2"):
        fit_head(latents, masks, 2, Segmentation())
    with pytest.raises(BadData, match="do not pair"):
        fit_head(latents, masks[:3], 3, Segmentation())
