"""Which images figures look at, and where edits lead: the same number of each class, and refused where there is one class."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from svgbench.backends.open import open_encoder
from svgbench.config import cards
from svgbench.config.choices import shifted_times
from svgbench.config.sampling import SamplingProtocol
from svgbench.config.schema import Features
from svgbench.errors import BadData
from svgbench.machine.runtime import Runtime
from svgbench.nets.sampler import euler, generate
from svgbench.stages import edits, embeddings, graph
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
    wanted = {f"sampling.{name}" for name in SamplingProtocol.model_fields} - {"sampling.sampler", "sampling.tuned", *graph.HEAD}
    assert [stage.name for stage in rows] == ["editing", "noise-interpolation"] and all(wanted <= set(stage.slice) for stage in rows)


@pytest.mark.parametrize("skipped", [0, 2])
def test_figures_skip_the_first_steps_as_samples_do(monkeypatch, skipped):
    class Model:
        classes, channels, grid = 2, 2, 4

        def __call__(self, x, t, labels):
            return torch.cos(x) + t[:, None, None, None] + labels[:, None, None, None]

    monkeypatch.setattr(edits, "open_transformer", lambda place, runtime: (Model(), ["a", "b"]))
    monkeypatch.setattr(edits, "as_velocity", lambda model: model)
    noise, labels = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    how = SamplingProtocol(sampler="euler", steps=4, guidance=2.0, shift=0.4, zero_init=skipped)
    velocity = edits._velocities({"diffusion": None}, Runtime(device="cpu", quiet=True))(labels, how)
    torch.testing.assert_close(euler(velocity, noise, shifted_times(4, 0.4)), generate(Model(), noise, labels, how))


class Pictures:
    """Random images of 32 pixels with labels."""

    def __init__(self, labels: torch.Tensor) -> None:
        self.labels = labels
        self._pixels = torch.randint(0, 256, (len(labels), 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

    def batch(self, places: torch.Tensor) -> torch.Tensor:
        return self._pixels[places]


def test_blocks_of_an_encoder_are_those_that_its_features_name(tmp_path):
    card = cards.find("dinov3", "tiny")
    part = {"opened": card.model_dump(mode="json"), "weights": None, "identity": cards.identity(card, None, None)}
    (tmp_path / "autoencoder.json").write_text(json.dumps({"encoder": part}))
    images, places = Pictures(torch.zeros(5)), torch.arange(5)
    found = embeddings._layers(tmp_path, images, places, Runtime(device="cpu", quiet=True))
    assert list(found) == ["block 1", "block 2", "block 3", "block 4"]
    floats = images.batch(places).float() / 255
    second = open_encoder(card.model_copy(update={"features": Features(layers=(2,))})).encode(floats)
    assert torch.equal(found["block 2"], second.mean((2, 3)))
    assert torch.equal(found["block 4"], open_encoder(card).encode(floats).mean((2, 3)))


def test_twenty_and_a_hundred_classes_are_embedded_with_as_many_images_of_each(tmp_path, monkeypatch):
    val = Pictures(torch.arange(120).repeat(2))
    collection = SimpleNamespace(val=val, classes=[f"c{label}" for label in range(120)])
    monkeypatch.setattr(embeddings, "open_images", lambda place: collection)
    monkeypatch.setattr(embeddings, "open_frozen", lambda part, device: (None, SimpleNamespace(encode=lambda x: x)))
    monkeypatch.setattr(embeddings, "_tsne", lambda vectors: vectors[:, :2].numpy())
    (tmp_path / "autoencoder.json").write_text('{"encoder": {}}')
    cost = embeddings.by_classes({}, {"images": tmp_path, "autoencoder": tmp_path}, tmp_path, Runtime(device="cpu", quiet=True))
    sets = json.loads((tmp_path / "embedding.json").read_text())["sets"]
    assert [(len(one["classes"]), len(one["images"])) for one in sets] == [(20, 40), (100, 200)] and cost == {"images_seen": 240}
    points = np.load(tmp_path / "points.npy")
    place = sets[1]["images"][7]
    assert np.allclose(points[40 + 7], val.batch(torch.tensor([place])).float().mean((2, 3))[0, :2] / 255, atol=1e-6)
    assert sets[1]["classes"][sets[1]["labels"][7]] == f"c{int(val.labels[place])}"
