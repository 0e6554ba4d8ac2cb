"""Depth by hand: bins, the scale-invariant loss and its gradient, Eigen's crop, errors per image."""

from __future__ import annotations

import math

import pytest
import torch

from svgbench.errors import BadData
from svgbench.metrics.depth import SilogSums, counted, depth_of, depth_scores, eigen_crop, errors, log_error, plain_silog, silog
from svgbench.metrics.protocol import ImageGroup, protocol
from svgbench.metrics.resampling import Resampling


def test_depth_is_the_mean_of_bins_by_their_weights():
    outputs = torch.tensor([0.0, 0.0, 0.9, -5.0]).view(1, 4, 1, 1)  # weights 0.1, 0.1, 1, 0.1
    assert depth_of(outputs, 1.0, 4.0).item() == pytest.approx((0.1 * 1 + 0.1 * 2 + 1 * 3 + 0.1 * 4) / 1.3)
    assert depth_of(torch.zeros(1, 256, 2, 2), 0.001, 10.0).unique().tolist() == pytest.approx([5.0005], rel=1e-5)


@pytest.mark.parametrize("variance", [True, False])
def test_the_loss_and_its_written_out_gradient_are_autograds(variance):
    g = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    plain = ((g.var() if variance else 0) + 0.15 * g.mean() ** 2).sqrt()
    plain.backward()
    loss, slope, offset = silog(SilogSums(torch.tensor(50.0).double(), g.detach().sum(), g.detach().square().sum()), variance=variance)
    assert loss.item() == pytest.approx(plain.item())
    torch.testing.assert_close(slope * g.detach() + offset, g.grad)


def test_glpdepths_loss_and_its_written_out_gradient_are_autograds():
    g = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).add(0.3).requires_grad_()
    plain = (g.square().mean() - 0.5 * g.mean().square()).sqrt()
    plain.backward()
    loss, slope, offset = plain_silog(SilogSums(torch.tensor(50.0).double(), g.detach().sum(), g.detach().square().sum()))
    assert loss.item() == pytest.approx(plain.item())
    torch.testing.assert_close(slope * g.detach() + offset, g.grad)
    assert [value.item() for value in plain_silog(SilogSums(*torch.zeros(3, dtype=torch.float64)))][::2] == [0, 0]  # no pixel at all


def test_a_scale_common_to_all_pixels_costs_little():
    truth = torch.rand(100, generator=torch.Generator().manual_seed(0)) * 5 + 1

    def loss(depth):
        g = log_error(depth, truth).double()
        return silog(SilogSums(torch.tensor(float(len(g))).double(), g.sum(), g.square().sum()))[0].item()

    assert loss(truth) == pytest.approx(0, abs=1e-6)
    assert loss(truth * 1.2) == pytest.approx(math.sqrt(0.15) * math.log(1.2), rel=1e-2)
    assert loss(truth * torch.where(torch.arange(100) % 2 == 0, 1.2, 1 / 1.2)) > 2 * loss(truth * 1.2)


def test_no_pixel_at_all_gives_no_loss_and_no_gradient():
    loss, slope, offset = silog(SilogSums(*torch.zeros(3, dtype=torch.float64)))
    assert loss == 0 and math.isfinite(slope) and offset == 0


def test_eigens_crop_is_its_published_box_on_nyu_and_a_share_elsewhere():
    assert eigen_crop(480, 640) == (slice(45, 471), slice(41, 601))
    assert eigen_crop(48, 64) == (slice(4, 47), slice(4, 60))
    truth = torch.full((480, 640), 2.0)
    assert counted(truth, 0.001, 10.0, eigen=True).sum() == (471 - 45) * (601 - 41)
    truth[100, 100], truth[101, 101], truth[102, 102] = 0.0, 10.0, 12.0  # unknown, the sensor's end, beyond
    assert counted(truth, 0.001, 10.0, eigen=False).sum() == 480 * 640 - 3


def test_errors_by_hand():
    truth, depth = torch.tensor([[1.0, 2.0, 4.0, 9.0]]), torch.tensor([[2.0, 2.0, 2.0, 0.0]])
    rmse, relative = errors(depth, truth, torch.tensor([[True, True, True, False]]))
    assert rmse == pytest.approx(math.sqrt(5 / 3)) and relative == pytest.approx((1 + 0 + 0.5) / 3)


def test_scores_are_means_over_images_and_leave_out_images_without_depth():
    found = torch.tensor([[1.0, 0.1], [3.0, 0.3], [math.nan, math.nan]]).double()
    name = protocol("depth-linear", images=ImageGroup(name="validation", count=3))
    rmse, relative = depth_scores(found, name, {"latents": "features"}, Resampling(resamples=50))
    assert (rmse.metric, rmse.value, rmse.count) == ("depth_rmse", 2.0, 2)
    assert (relative.metric, relative.value) == ("depth_arel", pytest.approx(0.2))
    assert 0 <= rmse.low < 2 < rmse.high
    with pytest.raises(BadData, match=r"no depth map has a pixel between scores\.depth\.head\.nearest and farthest"):
        depth_scores(found[2:], name, {}, Resampling())
