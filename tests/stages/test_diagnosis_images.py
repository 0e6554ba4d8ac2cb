"""Which images figures look at, and where edits lead: the same number of each class, and refused where there is one class."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from svgbench.config.sampling import SamplingProtocol
from svgbench.errors import BadData
from svgbench.stages import graph
from svgbench.stages.diagnosis import CLASSES, _plane, balanced
from svgbench.stages.edits import BOXED, _opposite
from svgbench.stages.embeddings import shown_layers
from svgbench.stages.feature_maps import shown_blocks


def test_each_class_gives_the_same_number_of_images_in_turn():
    labels = torch.tensor([2, 0, 0, 1, 2, 1, 0, 2, 1, 0])
    places, own, chosen = balanced(SimpleNamespace(labels=labels), 6)
    assert chosen == [0, 1, 2] and labels[places].tolist() == own.tolist() == [0, 1, 2, 0, 1, 2]
    assert places.tolist() == [1, 3, 0, 2, 5, 4]


def test_of_many_classes_ten_are_taken_at_even_distances():
    places, own, chosen = balanced(SimpleNamespace(labels=torch.arange(1000).repeat(3)), 20)
    assert len(chosen) == CLASSES and chosen[0] == 0 and chosen[-1] == 999 and chosen == [111 * i for i in range(CLASSES)]
    assert len(places) == 20 and own.tolist() == [*range(CLASSES)] * 2


def test_one_class_is_refused():
    with pytest.raises(BadData, match="of 1 class; figures by class need"):
        balanced(SimpleNamespace(labels=torch.zeros(5, dtype=torch.int64)), 4)


def test_the_plane_holds_what_tells_two_directions_of_classes_apart():
    centres = torch.zeros(4, 9)
    centres[:, 3], centres[:, 7] = torch.tensor([-5.0, 5.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, -2.0, 2.0])
    axes = _plane(centres)
    assert torch.allclose(axes, torch.eye(9)[:, [3, 7]], atol=1e-6)


def test_an_edit_leads_to_another_class():
    assert [_opposite(label, 10) for label in (0, 7)] == [5, 2] and [_opposite(label, 2) for label in (0, 1)] == [1, 0]


def test_of_many_classes_as_many_are_taken_as_are_asked_for():
    places, _, chosen = balanced(SimpleNamespace(labels=torch.arange(1000).repeat(2)), 40, 20)
    assert len(chosen) == 20 and chosen[-1] == 999 and len(places) == 40


def test_the_blocks_that_are_shown_are_the_article_s():
    assert shown_blocks(28) == [0, 1, 2, 3, 4, 5, 6, 13, 20, 27]  # figures 11 and 12
    assert shown_blocks(1) == [0] and shown_blocks(4) == [0, 1, 2, 3] and shown_blocks(12)[-1] == 11
    assert shown_layers(12) == [1, 4, 8, 12] and shown_layers(4) == [1, 2, 3, 4] and shown_layers(1) == [1]


def test_an_edit_in_a_box_is_denoised_as_in_appendix_c():
    assert (BOXED.sampler, BOXED.steps, BOXED.guidance, BOXED.shift) == ("euler", 100, 4.0, 0.4)


def test_a_diagnosis_that_samples_receives_every_setting_of_sampling():
    rows = [stage for stage in graph.DIAGNOSES if "sampling.steps" in stage.slice]
    wanted = {f"sampling.{name}" for name in SamplingProtocol.model_fields} - {"sampling.sampler", "sampling.tuned"}
    assert [stage.name for stage in rows] == ["editing", "noise-interpolation"] and all(wanted <= set(stage.slice) for stage in rows)
