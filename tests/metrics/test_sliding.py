"""Windows cover every pixel, and their average is the mean of what they say."""

from __future__ import annotations

import pytest
import torch

from svgbench.metrics.sliding import averaged, cut, windows


@pytest.mark.parametrize(("height", "width"), [(512, 512), (512, 683), (700, 512), (853, 853), (512, 513)])
def test_windows_are_of_one_size_and_cover_the_image(height, width):
    places = windows(height, width, 512, 341)
    assert {(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in places} == {(512, 512)}
    covered = torch.zeros(height, width)
    for place in places:
        covered[place] += 1
    assert covered.min() >= 1


def test_an_output_that_is_the_image_comes_back_whole():
    image = torch.rand(3, 50, 71, generator=torch.Generator().manual_seed(0))
    places = windows(50, 71, 32, 21)
    assert len(places) == 2 * 3
    torch.testing.assert_close(averaged(list(cut(image, places)), places, 50, 71), image)


def test_overlaps_are_means():
    places = windows(4, 6, 4, 2)
    found = averaged([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)], places, 4, 6)
    assert found[0, 0].tolist() == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
