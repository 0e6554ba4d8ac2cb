"""Which images a card looks at."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from svgbench.errors import BadData
from svgbench.stages.diffusability import CLASSES, OF_A_CLASS, _classes, _subset, choose


def images(labels: torch.Tensor) -> SimpleNamespace:
    return SimpleNamespace(labels=labels)


def test_each_class_has_the_same_number_of_random_images_in_the_order_of_the_classes():
    labels = torch.arange(4000) % 4
    picked = choose(images(labels), 1000)
    assert picked.labels.bincount().tolist() == [250] * 4 and torch.equal(labels[picked.places], picked.labels)
    assert [(rows.start, rows.stop) for rows in _classes(picked.labels)] == [(0, 250), (250, 500), (500, 750), (750, 1000)]
    assert torch.equal(picked.places, choose(images(labels), 1000).places) and picked.places[:250].max() > 3000
    assert picked.groups.bincount().tolist() == [100] * 10


def test_of_many_classes_few_with_many_images_are_taken():
    picked = choose(images(torch.arange(100_000) % 1000), 10_000)
    known = picked.labels.unique()
    assert len(known) == CLASSES and known[0] == 0 and known[-1] == 999 and len(picked.places) == CLASSES * 100
    assert len(choose(images(torch.zeros(5000)), 10_000).places) == OF_A_CLASS
    assert len(choose(images(torch.arange(3000) % 1000), 2000, classes=2000).labels.unique()) == 1000


def test_a_subset_has_as_many_of_each_class():
    picked = choose(images(torch.arange(400) % 4), 400)
    rows = _subset(picked, 40)
    assert picked.labels[rows].tolist() == [label for label in range(4) for _ in range(10)]


def test_too_few_images_are_refused():
    with pytest.raises(BadData, match="10 images are too few for a card; give 20 or more"):
        choose(images(torch.arange(10) % 2), 100)
