"""What a run needs: what is here, what is missing, whence and under which licence."""

from __future__ import annotations

import pytest

from svgbench.config import cards
from svgbench.config.build import build
from svgbench.errors import BadData
from svgbench.lab.forecast import requirements
from svgbench.lab.forecast.sizes import Counts, counts_of, published, sizes_of


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path / "hub"


def found(preset="paper", **settings):
    return {need.what: need for need in requirements.needs_of(sizes_of(build(settings, preset=preset), Counts(10, 10, 10)))}


def test_a_paper_run_on_a_bare_machine_misses_images_encoder_inception_and_vgg():
    all_ = found()
    missing = {what for what, need in all_.items() if need.state == "missing"}
    assert missing == {"images: ImageNet-1k (ILSVRC 2012)", "weights of dinov3-s16plus", "weights of inception (scores)",
                       "weights of lpips (autoencoder.loss)"}  # fmt: skip
    assert all_["weights of lpips (scores)"].state == "not given"
    for what in missing:
        assert all_[what].licence and "https://" in all_[what].where
    assert all_["weights of dinov3-s16plus"].licence == "dinov3-license"
    assert {what for what in all_ if what.startswith("package")} >= {"package timm", "package lpips", "package torch-fidelity"}


def test_a_tiny_run_needs_nothing_from_elsewhere():
    assert all(need.here for need in found("tiny").values())


def test_judges_trained_on_drawn_images_are_named_where_they_judge_a_folder(tmp_path):
    (tmp_path / "images").mkdir()
    tiny = found("tiny", data={"source": str(tmp_path / "images")})
    for part in ("shapes-cnn (scores)", "shapes-lpips (scores)", "shapes-lpips (autoencoder.loss)"):
        assert "not on photographs" in tiny[f"weights of {part}"].where
    small = found("small", data={"source": str(tmp_path / "images")})
    assert {what for what, need in small.items() if need.state == "missing"} >= {
        "weights of inception (scores)", "weights of lpips (autoencoder.loss)",
    }  # fmt: skip
    assert not any("photographs" in need.where for need in [*small.values(), *found("small").values()])


def test_what_is_handed_over_is_looked_for(tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(b"x")
    (tmp_path / "images").mkdir()
    given = {"encoder": {"weights": str(file)}, "scores": {"extractor_weights": str(file), "lpips_weights": str(tmp_path / "no")},
             "data": {"source": str(tmp_path / "images")}, "autoencoder": {"loss": {"weights": str(file)}}}  # fmt: skip
    all_ = found(**given)
    assert {what for what, need in all_.items() if not need.here} == {"weights of lpips (scores)"}
    assert all_[f"images: {tmp_path / 'images'}"].here
    with pytest.raises(BadData, match="does not exist; give --data"):
        found(data={"source": str(tmp_path / "nowhere")})


def test_the_hub_s_cache_counts_at_the_pinned_revision_alone(empty_cache):
    card = cards.find("dinov3-s16plus", "paper")
    place = empty_cache / "hub" / f"models--{card.weights.hub.replace('/', '--')}" / "snapshots"
    for revision, here in (("0" * 40, False), (card.weights.revision, True)):
        (place / revision).mkdir(parents=True)
        (place / revision / "model.safetensors").write_bytes(b"x")
        assert requirements.weights_of(card).here is here


def test_the_teacher_and_the_codec_of_a_run_are_among_its_needs():
    assert "weights of dinov2-b14" in found(diffusion={"representation": {"weight": 0.5}})
    codec = found(encoder={"card": "sd-vae"})
    assert "weights of lpips (autoencoder.loss)" not in codec and "package diffusers" in codec


def test_gpus_are_named_by_the_driver(monkeypatch, tmp_path):
    for number in range(2):
        (tmp_path / f"0000:{number}").mkdir()
        (tmp_path / f"0000:{number}" / "information").write_text("Model: \t\t NVIDIA H200\nIRQ: 1\nBus Location: 0000:01\n")
    monkeypatch.setattr(requirements, "DRIVER", tmp_path)
    assert requirements.gpus() == ["NVIDIA H200", "NVIDIA H200"]
    monkeypatch.setattr(requirements, "DRIVER", tmp_path / "absent")
    assert requirements.gpus() == []


def test_what_single_scores_are_given_is_looked_for_and_has_a_licence(tmp_path):
    (tmp_path / "ade").mkdir()
    given = {"segmentation": {"source": str(tmp_path / "ade")}, "depth": {"source": str(tmp_path / "no")},
             "reference": str(tmp_path / "r.npz"), "second_extractor": "dinov2-vit-l-14"}  # fmt: skip
    all_ = found(scores=given)
    ade, depth = (next(need for what, need in all_.items() if word in what) for word in ("ADE20K", "NYU"))
    assert ade.state == "yes" and ade.where == str(tmp_path / "ade") and "BSD-3-Clause" in ade.licence
    assert depth.state == "missing" and "cs.nyu.edu" in depth.where and "not stated" in depth.licence
    assert all_["reference of the samples"].state == "missing" and "guided-diffusion" in all_["reference of the samples"].where
    second = all_["weights of dinov2-vit-l-14 (scores)"]
    assert second.state == "missing" and "scores.second_extractor_weights=FILE" in second.where and second.licence == "Apache-2.0"


def test_the_weights_of_fdr6_are_looked_for_in_its_folder(tmp_path):
    (tmp_path / "vit_large_patch16_224.mae.safetensors").write_bytes(b"weights")
    all_ = found(scores={"extractor": "inception", "fdr6": str(tmp_path)})
    mae, clip = (all_[f"weights of {name} (scores.fdr6)"] for name in ("mae-l", "clip-l-256"))
    assert mae.state == "yes" and mae.licence == "CC-BY-NC-4.0"
    assert clip.state == "missing" and clip.where.endswith(f"saved as {tmp_path / 'vit_large_patch14_clip_224.openai.safetensors'}")
    assert sum("(scores.fdr6)" in name for name in all_) == 5


def test_scores_left_out_are_named_with_their_settings():
    settings = ("scores.segmentation.source", "scores.depth.source", "scores.second_extractor", "scores.fdr6", "scores.reference")
    words = requirements.left_out(build({}, preset="paper"))
    assert [any(f"({setting})" in word for word in words) for setting in settings] == [True] * 5 and len(words) == 5
    off = build({"scores": {"segmentation": {"enabled": False}}}, preset="paper")
    assert not [word for word in requirements.left_out(off) if "mIoU" in word]
    given = {"scores": {"segmentation": {"source": "x"}, "depth": {"source": "x"}, "reference": "x", "second_extractor": "dinov2-vit-l-14",
                        "fdr6": "x"}}  # fmt: skip
    assert requirements.left_out(build(given, preset="paper")) == [] == requirements.left_out(build({}, preset="tiny"))


@pytest.mark.parametrize("name", ["ade20k", "nyu-depth-v2"])
def test_a_data_set_of_a_score_is_no_source_of_class_images(name):
    assert published("imagenet") and published(name) is None
    with pytest.raises(BadData, match="does not exist"):
        found(data={"source": name})
    with pytest.raises(BadData, match="does not exist"):
        counts_of(build({"data": {"source": name}}, preset="paper"))
