"""Dense prediction on folders: heads learn what latents show, and a head is the same after a kill, on two ranks and with threads."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scenes import ade20k, nyu
from toys import in_child, in_ranks

from svgbench.config.build import build
from svgbench.config.paper_heads import PaperDepth, PaperSegmentation
from svgbench.config.parse import override
from svgbench.config.records import Protocol
from svgbench.config.scoring import Depth, DepthHead, Segmentation, SegmentationHead
from svgbench.errors import BadConfig, BadData
from svgbench.lab.plan import nodes_of, resolve
from svgbench.machine import checkpoints
from svgbench.machine.runtime import Runtime
from svgbench.stages import depth, paper_depth, paper_segmentation, segmentation
from svgbench.stages.autoencoder import adopt
from svgbench.stages.tokenizers import build as build_tokenizer
from svgbench.stages.tokenizers import describe, open_frozen, open_tokenizer
from svgbench.tables.standings import Entry, standings

RUNTIME = Runtime(device="cpu", threads=1, quiet=True)
TRAINING = {"total_images": 80, "batch": 16, "lr": 0.05, "lr_warmup_images": 16, "checkpoint_images": 32}
SEGMENTATION = {"classes": 4, "crop": 32, "stride": 21, **TRAINING}
DEPTH = {"bins": 16, "crop": (32, 48), **TRAINING}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory) -> dict[str, Path]:
    """Autoencoder artifacts: a codec, and features with an untrained residual, both of the shipped tiny weights."""
    places = {}
    for name in ("sd-vae", "dinov2"):
        config = resolve(build(override([f"encoder.card={name}", "autoencoder.align=none"]), preset="tiny"), images=False)
        encoder, place = config.encoder.model_dump(mode="json"), tmp_path_factory.mktemp(name)
        if name == "sd-vae":
            adopt({"encoder": encoder}, {}, place, RUNTIME)
        else:
            card, frozen = open_frozen(encoder, torch.device("cpu"))
            torch.manual_seed(0)
            made = build_tokenizer(frozen, config.autoencoder, 32, torch.device("cpu"))
            save_file(made.state_dict(), place / "autoencoder.safetensors")
            settings = config.autoencoder.model_dump(mode="json")
            (place / "autoencoder.json").write_bytes(describe(encoder, card, settings=settings, resolution=32))
        places[name] = place
    return places


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    return ade20k(tmp_path_factory.mktemp("ade"))


@pytest.fixture(scope="module")
def distances(tmp_path_factory) -> Path:
    return nyu(tmp_path_factory.mktemp("nyu"))


def segment(source: Path, autoencoder: Path, out: Path, *, runtime: Runtime = RUNTIME, **over) -> list[dict]:
    """Scores of the segmentation stage."""
    out.mkdir(parents=True, exist_ok=True)
    part = Segmentation(source=str(source), head=SegmentationHead(**{**SEGMENTATION, **over})).model_dump(mode="json")
    segmentation.folder({"scores": {"segmentation": part, "resamples": 10}, "seed": 0}, {"autoencoder": autoencoder}, out, runtime)
    return json.loads((out / "scores.json").read_text()) if runtime.is_main else []


def measure(source: Path, autoencoder: Path, out: Path, *, runtime: Runtime = RUNTIME, **over) -> list[dict]:
    """Scores of the depth stage."""
    out.mkdir(parents=True, exist_ok=True)
    part = Depth(source=str(source), head=DepthHead(**{**DEPTH, **over})).model_dump(mode="json")
    depth.folder({"scores": {"depth": part, "resamples": 10}, "seed": 0}, {"autoencoder": autoencoder}, out, runtime)
    return json.loads((out / "scores.json").read_text()) if runtime.is_main else []


FPN = {"crop": 32, "window_stride": 21, "width": 8, "total_images": 80, "batch": 16, "lr": 0.02, "lr_warmup_images": 16,
       "checkpoint_images": 32}  # fmt: skip
DECONV = {"crop": 32, "window_stride": 16, "filters": (8, 8), "width": 8, "epochs": 13, "batch": 16, "lr": 0.02, "checkpoint_images": 32}


def segment_as_paper(source: Path, autoencoder: Path, out: Path, *, runtime: Runtime = RUNTIME, **over) -> list[dict]:
    """Scores of the segmentation stage of the paper's protocol."""
    out.mkdir(parents=True, exist_ok=True)
    part = Segmentation(source=str(source), head=SegmentationHead(classes=4)).model_dump(mode="json")
    scores = {"segmentation": part, "paper": {"fpn": PaperSegmentation(**{**FPN, **over}).model_dump(mode="json")}, "resamples": 10}
    paper_segmentation.folder({"scores": scores, "seed": 0}, {"autoencoder": autoencoder}, out, runtime)
    return json.loads((out / "scores.json").read_text()) if runtime.is_main else []


def measure_as_paper(source: Path, autoencoder: Path, out: Path, *, runtime: Runtime = RUNTIME, **over) -> list[dict]:
    """Scores of the depth stage of the paper's protocol."""
    out.mkdir(parents=True, exist_ok=True)
    paper = {"deconv": PaperDepth(**{**DECONV, **over}).model_dump(mode="json")}
    scores = {"depth": Depth(source=str(source)).model_dump(mode="json"), "paper": paper, "resamples": 10}
    paper_depth.folder({"scores": scores, "seed": 0}, {"autoencoder": autoencoder}, out, runtime)
    return json.loads((out / "scores.json").read_text()) if runtime.is_main else []


def value(rows: list[dict], metric: str, latents: str = "features") -> float:
    return next(row["value"] for row in rows if row["metric"] == metric and row["detail"]["latents"] == latents)


def test_heads_learn_the_classes_of_a_folder(tokenizers, labelled, tmp_path):
    learned = segment(labelled, tokenizers["sd-vae"], tmp_path / "long", total_images=320)
    idle = segment(labelled, tokenizers["sd-vae"], tmp_path / "short", lr=1e-9, total_images=16)
    assert value(learned, "miou") > 60 > 35 > value(idle, "miou")
    row = learned[0]
    assert row["count"] == 4 and row["low"] < row["value"] < row["high"]
    told = row["protocol"]
    assert (told["measure"], told["reference_count"], told["count"], told["details"]) == ("seg-linear-slide", 6, 4, ["4classes"])
    left = {path.name for path in (tmp_path / "long").iterdir()}
    assert left == {"checkpoints", "classes.json", "heads.safetensors", "log.jsonl", "scores.json"}  # checkpoints go when it is committed
    figures = json.loads((tmp_path / "long" / "classes.json").read_text())["features"]
    assert sum(figure["iou"] for figure in figures) / 4 == pytest.approx(value(learned, "miou"))


def test_features_residual_and_both_are_read_at_another_size_than_the_residual_was_trained_at(tokenizers, labelled, tmp_path):
    rows = segment(labelled, tokenizers["dinov2"], tmp_path, crop=64, stride=40, total_images=8)
    assert [(row["metric"], row["detail"]["latents"]) for row in rows] == [
        (metric, latents) for latents in ("features", "residual", "both") for metric in ("miou", "macc")
    ]
    assert all(0 <= row["low"] <= row["high"] <= 100 for row in rows)


def test_heads_learn_depth(tokenizers, distances, tmp_path):
    learned = measure(distances, tokenizers["sd-vae"], tmp_path / "long", total_images=320, lr=0.2)
    idle = measure(distances, tokenizers["sd-vae"], tmp_path / "short", lr=1e-9, total_images=16)
    assert value(learned, "depth_rmse") < 0.6 * value(idle, "depth_rmse")
    assert value(learned, "depth_arel") < 0.6 * value(idle, "depth_arel")
    told = learned[0]["protocol"]
    assert (told["measure"], told["reference_count"], told["details"]) == ("depth-linear", 6, ["eigen-crop", "to10m"])
    assert learned[0]["count"] == 4 and learned[0]["low"] < learned[0]["value"] < learned[0]["high"]


def losses(out: Path) -> list[float]:
    """The loss on features at each log line."""
    return [json.loads(line)["features"] for line in (out / "log.jsonl").read_text().splitlines()]


def test_the_paper_s_segmentation_head_learns_under_its_own_protocol(tokenizers, labelled, tmp_path):
    rows = segment_as_paper(labelled, tokenizers["sd-vae"], tmp_path, total_images=480, width=16, lr=0.05)
    assert value(rows, "miou") > 60 and losses(tmp_path)[-1] < 0.5 * losses(tmp_path)[0]
    told = rows[0]["protocol"]
    assert (told["measure"], told["reference_count"], told["count"], told["details"]) == ("paper-seg-fpn-slide", 6, 4, ["4classes"])
    names = load_file(tmp_path / "heads.safetensors").keys()
    assert {"features.scale_heads.0.0.conv.weight", "features.scale_heads.0.0.bn.running_var", "features.conv_seg.bias"} <= names


def test_the_paper_s_depth_head_learns_under_its_own_protocol(tokenizers, distances, tmp_path):
    rows = measure_as_paper(distances, tokenizers["sd-vae"], tmp_path / "long", epochs=60, lr=0.1)
    idle = measure_as_paper(distances, tokenizers["sd-vae"], tmp_path / "short", lr=3.1e-5, epochs=2)
    assert value(rows, "depth_rmse") < value(idle, "depth_rmse")
    assert value(rows, "depth_arel") < 0.75 * value(idle, "depth_arel")
    assert losses(tmp_path / "long")[-1] < 0.9 * losses(tmp_path / "long")[0]
    told = rows[0]["protocol"]
    assert (told["measure"], told["count"], told["details"]) == ("paper-depth-deconv-slide", 4, ["eigen-crop", "to10m"])


def test_both_read_features_residual_and_both(tokenizers, labelled, distances, tmp_path):
    made = segment_as_paper(labelled, tokenizers["dinov2"], tmp_path / "a", total_images=16), measure_as_paper(
        distances, tokenizers["dinov2"], tmp_path / "b", epochs=1
    )  # fmt: skip
    for rows, metric in zip(made, ("miou", "depth_rmse"), strict=True):
        assert [row["detail"]["latents"] for row in rows if row["metric"] == metric] == ["features", "residual", "both"]


def test_two_protocols_are_never_ranked_together(tokenizers, labelled, tmp_path):
    stages = (segment, segment_as_paper)
    found = [stage(labelled, tokenizers["sd-vae"], tmp_path / stage.__name__, total_images=16)[0] for stage in stages]
    rows = [{**row, "seed": 0, "protocol_fields": row["protocol"], "protocol": Protocol(**row["protocol"]).text} for row in found]
    table = standings("t", [Entry(str(i), "mIoU", row) for i, row in enumerate(rows)], rows=["0", "1"], columns=["mIoU"])
    assert len(table.columns) == 3 and not any(cell.place for row in table.rows for cell in row[1:] if not isinstance(cell, str))
    assert any("are not ranked together; they differ in measure" in note for note in table.notes)


@pytest.fixture(
    scope="module",
    params=[segment, measure, segment_as_paper, measure_as_paper],
    ids=["segmentation", "depth", "paper-segmentation", "paper-depth"],
)
def truth(request, tokenizers, labelled, distances, tmp_path_factory):
    """A stage, its folder, where its uninterrupted run is, and the scores of that."""
    source = labelled if request.param in (segment, segment_as_paper) else distances
    place = tmp_path_factory.mktemp("quiet")
    return request.param, source, place, request.param(source, tokenizers["sd-vae"], place)


@pytest.mark.parametrize("point", ["training.updated:4", "file.before_rename:2"])
def test_killed_and_resumed_heads_are_those_of_the_uninterrupted_run(tokenizers, truth, tmp_path, point):
    stage, source, place, quiet = truth
    assert in_child(lambda: stage(source, tokenizers["sd-vae"], tmp_path / "rough"), failpoint=point) == -signal.SIGKILL
    assert checkpoints.list_checkpoints(tmp_path / "rough" / "checkpoints") and not (tmp_path / "rough" / "scores.json").exists()
    assert stage(source, tokenizers["sd-vae"], tmp_path / "rough") == quiet
    one, other = (load_file(folder / "heads.safetensors") for folder in (place, tmp_path / "rough"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_threads_change_nothing_and_micro_batches_and_ranks_only_rounding(tokenizers, truth, tmp_path):
    stage, source, place, _ = truth
    stage(source, tokenizers["sd-vae"], tmp_path / "threads", runtime=Runtime(device="cpu", threads=1, workers=3, quiet=True))
    stage(source, tokenizers["sd-vae"], tmp_path / "micro", runtime=Runtime(device="cpu", threads=1, micro_batch=7, quiet=True))

    def ranked():
        stage(source, tokenizers["sd-vae"], tmp_path / "ranks", runtime=RUNTIME.start())

    assert in_ranks(2, ranked) == [0, 0]
    wanted = load_file(place / "heads.safetensors")
    for name, tolerance in (("threads", 0.0), ("micro", 2e-3), ("ranks", 2e-3)):
        found = load_file(tmp_path / name / "heads.safetensors")
        for key, tensor in wanted.items():
            assert (found[key] - tensor).abs().max() <= tolerance, f"{name}: {key}"


def test_the_last_image_alone_being_another_s_is_no_failure_of_ranks(tokenizers, labelled, tmp_path):
    def ranked():
        segment(labelled, tokenizers["sd-vae"], tmp_path, runtime=RUNTIME.start(), batch=1, total_images=3)

    assert in_ranks(2, ranked) == [0, 0]
    assert len(json.loads((tmp_path / "scores.json").read_text())) == 2


def test_a_crop_that_the_encoder_cannot_take_is_refused_before_training(tokenizers, labelled, tmp_path):
    with pytest.raises(BadConfig, match="images of 30 px cannot be divided"):
        segment(labelled, tokenizers["sd-vae"], tmp_path, crop=30, stride=20)


def test_a_mask_that_changes_while_heads_are_trained_gives_no_scores(tokenizers, tmp_path, monkeypatch):
    root, real = ade20k(tmp_path / "ade"), segmentation._evaluated

    def evaluated(*words):
        found = real(*words)
        mask = next((root / "annotations" / "training").iterdir())
        mask.write_bytes(mask.read_bytes() + b"x")
        return found

    monkeypatch.setattr(segmentation, "_evaluated", evaluated)
    with pytest.raises(BadData, match="its files changed after this run was planned"):
        segment(root, tokenizers["sd-vae"], tmp_path / "out", total_images=16)
    assert not (tmp_path / "out" / "scores.json").exists()


def test_masks_that_cannot_be_used_are_named_before_anything_is_trained(tmp_path):
    from PIL import Image

    root = ade20k(tmp_path / "ade")
    for path in (root / "annotations" / "validation").iterdir():
        Image.fromarray(np.zeros_like(np.asarray(Image.open(path)))).save(path)
    part = {"scores": {"segmentation": Segmentation(source=str(root), head=SegmentationHead(classes=4)).model_dump()}}
    with pytest.raises(BadData, match="have no usable pixel"):
        segmentation.check_masks(part, {}, tmp_path, RUNTIME)
    stages = list(nodes(f"scores.segmentation.source={root}"))
    assert stages.index("masks") < stages.index("autoencoder")


def test_what_was_checked_says_how_much_counts(labelled, distances, tmp_path):
    part = {"scores": {"segmentation": Segmentation(source=str(labelled), head=SegmentationHead(classes=4)).model_dump()}}
    segmentation.check_masks(part, {}, tmp_path, RUNTIME)
    masks = json.loads((tmp_path / "pairs.json").read_text())
    depth.check_depth_maps({"scores": {"depth": Depth(source=str(distances)).model_dump()}}, {}, tmp_path, RUNTIME)
    maps = json.loads((tmp_path / "pairs.json").read_text())
    for about in (masks, maps):
        assert about["training"]["pairs"] >= about["validation"]["pairs"] > 0 and about["validation"]["pixels"] > 0


def nodes(*words: str) -> dict[str, str]:
    return {node.stage: node.key for node in nodes_of(resolve(build(override(list(words)), preset="tiny")))}


def test_a_source_replaces_the_run_s_own_masks_and_is_known_by_its_files(labelled, distances):
    plain = nodes()
    given = nodes(f"scores.segmentation.source={labelled}", f"scores.depth.source={distances}")
    assert given.keys() - plain.keys() == {"dense-segmentation-scores", "depth-scores", "masks", "depth-maps"}
    assert plain.keys() - given.keys() == {"segmentation-scores"}
    assert all(given[stage] == plain[stage] for stage in plain.keys() & given.keys())
    assert nodes(f"scores.segmentation.source={labelled}/.")["dense-segmentation-scores"] == given["dense-segmentation-scores"]
    other = nodes(f"scores.segmentation.source={labelled}", "scores.segmentation.head.classes=5", "scores.segmentation.epochs=9")
    assert other["dense-segmentation-scores"] != given["dense-segmentation-scores"]
    same = nodes(f"scores.segmentation.source={labelled}", "scores.segmentation.epochs=9")  # a word of the other source
    assert same["dense-segmentation-scores"] == given["dense-segmentation-scores"]


def test_a_source_that_is_no_folder_stops_at_the_plan():
    with pytest.raises(BadData, match=r"is not a folder; set scores\.segmentation\.source to a folder"):
        nodes("scores.segmentation.source=/nowhere/ADE20K")
    with pytest.raises(BadData, match=r"is not a folder; set scores\.depth\.source to a folder"):
        nodes("scores.depth.source=/nowhere/nyu")


def test_an_open_tokenizer_says_which_sides_it_takes(tokenizers):
    tokenizer = open_tokenizer(tokenizers["dinov2"], RUNTIME)
    tokenizer.check_side(64)
    with pytest.raises(BadConfig, match="cannot be divided"):
        tokenizer.check_side(65)
