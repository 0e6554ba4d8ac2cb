"""FDr6 and its extractors: shapes, preprocessing and pooling on random weights; the mean of six ratios and its interval."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from commands import svgbench
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg
from torch.nn.functional import interpolate

from svgbench.config.scoring import SPACES
from svgbench.errors import BadWeights
from svgbench.images import shapes
from svgbench.metrics import six_spaces, timm_extractor
from svgbench.metrics.elsewhere import elsewhere_scores
from svgbench.metrics.features import extract, extract_each, load_extractor
from svgbench.metrics.frechet import frechet_distance
from svgbench.metrics.judges import row
from svgbench.metrics.resampling import Resampling
from svgbench.metrics.timm_extractor import MEMBERS, TimmExtractor

SMALL = {"svgbench-convnextv2-b": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}}
VIT = {"depth": 2, "embed_dim": 48, "num_heads": 3}
"""Arguments that keep each kind of network and make it small."""


def small(name: str) -> timm_extractor.TimmMember:
    member = MEMBERS[name]
    return replace(member, arguments={**member.arguments, **SMALL.get(name, VIT)})


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Small extractors by the names of the real ones, with random weights, and the plain networks in them."""

    def open_(name: str):
        member = small(name)
        monkeypatch.setitem(MEMBERS, name, member)
        torch.manual_seed(len(name))
        network = timm.create_model(member.architecture, pretrained=False, num_classes=0, **member.arguments).eval()
        for parameter in network.parameters():  # timm's layer scales are nearly 0
            torch.nn.init.normal_(parameter, std=0.2)
        save_file(network.state_dict(), tmp_path / f"{name}.safetensors")
        return TimmExtractor(name, ["pooled"], tmp_path / f"{name}.safetensors"), network

    return open_


@pytest.mark.parametrize("name", MEMBERS)
def test_an_extractor_pools_the_network_s_features_of_resized_and_normalised_images(name, opened):
    extractor, network = opened(name)
    images = torch.from_numpy(shapes.draw(range(3), seed=0, resolution=32, split="val").images)
    facts, side = get_pretrained_cfg(MEMBERS[name].architecture), MEMBERS[name].side
    pixels = interpolate(images.float() / 255, (side, side), mode="bicubic", align_corners=False, antialias=True)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (facts.mean, facts.std))
    with torch.no_grad():
        tokens = network.forward_features((pixels - mean) / deviation)
        pooled = {
            "svgbench-convnextv2-b": lambda: tokens.mean((2, 3)),
            "svgbench-siglip2-so400m": lambda: network.forward_head(tokens, pre_logits=True),
        }
        wanted = pooled.get(name, lambda: tokens[:, 0])()
        (found,) = extractor(images)
    torch.testing.assert_close(found, wanted)
    assert found.std(0).max() > 1e-4, "images differ"


@pytest.mark.parametrize("space", SPACES[1:])
def test_the_table_states_the_width_of_the_real_network(space):
    facts = row("features", space)
    member = MEMBERS[facts["registry"]]
    with torch.device("meta"):
        network = timm.create_model(member.architecture, pretrained=False, num_classes=0, **member.arguments)
        features = timm_extractor.pooled(network, network.forward_features(torch.zeros(1, 3, member.side, member.side)))
    assert features.shape == (1, facts["dim"])
    assert facts["resize"] == f"bicubic-{member.side}-antialias" and facts["file"] == f"{member.architecture}.safetensors"


def test_the_divisors_are_the_authors():
    divisors = {name: row("features", name)["validation_fd"] for name in SPACES}
    assert divisors == {
        "inception": 1.68, "convnextv2-b": 56.87, "dinov2-l-256": 14.19, "mae-l": 0.04, "siglip2-so400m": 0.60, "clip-l-256": 5.60,
    }  # fmt: skip


def test_weights_of_another_network_are_refused_in_one_sentence(opened, tmp_path):
    opened("svgbench-mae-l")
    save_file({"patch_embed.proj.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BadWeights, match=r"other\.safetensors"):
        TimmExtractor("svgbench-mae-l", ["pooled"], tmp_path / "other.safetensors")


@pytest.fixture(scope="module")
def spaces():
    """Six extractors under the real names, which are one small network."""
    plain = load_extractor("shapes-cnn")
    return [replace(plain, name=name, digest=f"{number:064x}", frechet=f"fd_{number}") for number, name in enumerate(SPACES)]


@pytest.fixture
def sets(tmp_path):
    paths = []
    for name, split, count in (("a", "val", 40), ("b", "train", 60)):
        images = shapes.draw(range(count), seed=0, resolution=32, split=split).images
        np.savez(tmp_path / f"{name}.npz", arr_0=np.ascontiguousarray(np.moveaxis(images, 1, -1)))
        paths.append(tmp_path / f"{name}.npz")
    return paths


def test_fdr6_is_the_mean_of_six_ratios_with_an_interval_of_its_own(spaces, sets):
    scores = elsewhere_scores(*sets, spaces[0], further=spaces[1:], resampling=Resampling(resamples=20, seed=0))
    found = {score.metric: score for score in scores}
    distance, divisors = found["fd_0"].value, [row("features", name)["validation_fd"] for name in SPACES]
    assert [found[f"fd_{number}"].value for number in range(6)] == pytest.approx([distance] * 6)
    mean = sum(1 / divisor for divisor in divisors) / 6
    ratio = found["fdr6"]
    assert ratio.value == pytest.approx(distance * mean)
    # one network in all spaces: the resamples agree, so the interval is the distance's, scaled
    assert [ratio.low, ratio.high] == pytest.approx([found["fd_0"].low * mean, found["fd_0"].high * mean])
    assert ratio.detail["ratios"]["mae-l"] == pytest.approx(distance / 0.04, rel=1e-4)
    assert ratio.protocol.text.startswith("fd-ratio-fdr6@") and ratio.protocol.judge_digest not in {one.digest for one in spaces}


def test_five_spaces_give_no_fdr6(spaces, sets):
    scores = elsewhere_scores(*sets, spaces[0], further=spaces[1:5], resampling=Resampling(resamples=2, seed=0))
    assert not any(score.metric == "fdr6" for score in scores)


def test_published_statistics_replace_the_reference_of_a_space(spaces, sets, tmp_path):
    images = np.moveaxis(np.load(sets[1])["arr_0"], -1, 1)
    gaussian = extract(spaces[1], images[:50]).moments.gaussian()
    np.savez(tmp_path / "own.npz", mu=gaussian.mean.numpy(), sigma=gaussian.covariance.numpy())
    own = {spaces[1].name: tmp_path / "own.npz"}
    scores = elsewhere_scores(*sets, spaces[0], further=spaces[1:2], statistics=own, resampling=Resampling(resamples=2, seed=0))
    found = {score.metric: score for score in scores}
    judged = extract(spaces[1], np.moveaxis(np.load(sets[0])["arr_0"], -1, 1)).moments.gaussian()
    assert found["fd_1"].value == pytest.approx(frechet_distance(judged, gaussian), rel=1e-6)
    assert found["fd_1"].protocol.reference == "statistics" and found["fd_0"].protocol.reference == "images"


def test_one_pass_gives_every_extractor_what_its_own_pass_gives(spaces):
    images = shapes.draw(range(30), seed=0, resolution=32, split="val").images
    read = []

    class Counted:
        shape = images.shape

        def __len__(self):
            return len(images)

        def batch(self, places):
            read.extend(places.tolist())
            return torch.from_numpy(images[places])

    together = extract_each(spaces[:3], Counted(), batch=8)
    assert read == list(range(30))
    alone = extract(spaces[0], images, batch=8)
    for features in together:
        assert torch.equal(features.kept, alone.kept) and features.count == 30


def test_the_command_names_every_missing_file_before_it_opens_an_image(tmp_path):
    (tmp_path / "vit_large_patch16_224.mae.safetensors").write_bytes(b"x")
    done = svgbench("eval", "a.npz", "--reference", "b.npz", "--fdr6", str(tmp_path))
    assert (
        done.returncode == 2
        and "convnextv2_base" in done.stderr
        and "siglip" in done.stderr
        and "vit_large_patch16_224.mae" not in done.stderr
    )


def test_fdr6_needs_inception(tmp_path):
    for name in SPACES[1:]:
        (tmp_path / row("features", name)["file"]).write_bytes(b"x")
    done = svgbench("eval", "a.npz", "--reference", "b.npz", "--fdr6", str(tmp_path), "--extractor", "shapes-cnn")
    assert done.returncode == 2 and "--fdr6 needs --extractor inception" in done.stderr
    assert six_spaces.statistics_in(tmp_path, "mae-l") is None
