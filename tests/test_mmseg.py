"""mmsegmentation beside us: our areas are its areas, our windows its windows, and our encoders its backbones."""

from __future__ import annotations

import math

import pytest
import torch
from measured import agrees
from scenes import ade20k

pytest.importorskip("mmseg", reason="mmsegmentation is not installed (extra seg)")

from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.evaluation.metrics import IoUMetric
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules

import svgbench
from svgbench.errors import BadConfig, BadInput
from svgbench.lab.configs import configs_of
from svgbench.lab.plan import Plan, make_plan
from svgbench.lab.record import record
from svgbench.lab.run_plan import run_here
from svgbench.lab.schedule import Outcome
from svgbench.lab.worker import Bench
from svgbench.metrics.segmentation import ade20k_names, areas_of, means
from svgbench.metrics.sliding import averaged, cut, windows
from svgbench.mmseg import MEAN, STD, SvgbenchBackbone

SIDE = 32


def test_areas_and_means_are_exactly_those_of_iou_metric():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 150, (5, 40, 50), generator=generator)
    guesses = torch.randint(0, 150, truth.shape, generator=generator)
    predicted = torch.where(torch.rand(5, 40, 50, generator=generator) < 0.6, truth, guesses)
    truth[torch.rand(5, 40, 50, generator=generator) < 0.1] = 255
    truth[truth == 149] = 255  # a class that is predicted only
    predicted[predicted == 148], truth[truth == 148] = 0, 255  # one that is nowhere
    found = areas_of(predicted, truth.byte(), 150)
    totals = [torch.zeros(150, dtype=torch.float64) for _ in range(4)]
    for image in range(5):
        theirs = IoUMetric.intersect_and_union(predicted[image], truth[image], 150, 255)
        inter, union, guessed, labelled = theirs
        assert torch.equal(inter.double(), found.intersection[image]) and torch.equal(guessed.double(), found.predicted[image])
        assert torch.equal(labelled.double(), found.truth[image])
        assert torch.equal(union.double(), (found.predicted + found.truth - found.intersection)[image])
        totals = [a + b for a, b in zip(totals, theirs, strict=True)]
    theirs = IoUMetric.total_area_to_metrics(*totals, metrics=["mIoU"])
    iou, accuracy = means(found)
    defined = [torch.tensor(theirs[name]).double() for name in ("IoU", "Acc")]
    agrees("miou", iou.item(), 100 * defined[0].nanmean().item(), against="mmsegmentation IoUMetric", rel=1e-12)
    agrees("macc", accuracy.item(), 100 * defined[1].nanmean().item(), against="mmsegmentation IoUMetric", rel=1e-12)
    assert math.isnan(defined[0][148]) and defined[0][149] == 0


class Slider(EncoderDecoder):
    """Its sliding inference around a given function."""

    def __init__(self, function, side, stride):
        torch.nn.Module.__init__(self)
        self.encode_decode = lambda crop, metas: function(crop)
        self.test_cfg, self.out_channels = Config({"crop_size": (side, side), "stride": (stride, stride)}), 4


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 57), (45, 83)])
def test_sliding_is_its_slide_mode(height, width):
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    layer = torch.nn.Conv2d(3, 4, 5, padding=2)  # sees each window's own border

    with torch.no_grad():
        theirs = Slider(layer, 32, 21).slide_inference(image[None], [{}])[0]
        places = windows(height, width, 32, 21)
        ours = averaged(list(layer(cut(image, places))), places, height, width)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_ade20k_s_class_names_come_from_it():
    names = ade20k_names()
    assert len(names) == 150 and names[:3] == ("wall", "building", "sky") and names[-1] == "flag"


def test_the_backbone_undoes_the_preprocessor_s_pixels():
    register_all_modules(init_default_scope=True)
    image = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)
    preprocessor = MODELS.build({"type": "SegDataPreProcessor", "mean": MEAN, "std": STD, "bgr_to_rgb": True, "size": (SIDE, SIDE)})
    ready = preprocessor({"inputs": [image.flip(0)], "data_samples": None})["inputs"]  # cv2 reads BGR
    backbone = MODELS.build({"type": "SvgbenchBackbone", "encoder": "dinov2-tiny"})
    (found,) = backbone(ready)
    encoder = svgbench.load_encoder("dinov2-tiny")
    wanted = encoder.encode(image[None].float() / 255)
    assert backbone.out_channels == encoder.channels == found.shape[1]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    wrong = encoder.encode(image.flip(0)[None].float() / 255)
    assert (found - wrong).abs().max() > 100 * (found - wanted).abs().max()


def test_the_backbone_stays_frozen_and_out_of_checkpoints():
    backbone = SvgbenchBackbone(encoder="dinov2-tiny").train()
    assert not list(backbone.parameters()) and not backbone.state_dict()
    pixels = torch.zeros(1, 3, SIDE, SIDE, requires_grad=True)
    assert not backbone(pixels)[0].requires_grad


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, BadConfig, "needs one of encoder"),
        ({"encoder": "dinov2-tiny", "run": "runs/x"}, BadConfig, "needs one of encoder"),
        ({"encoder": "dinov2-tiny", "latents": "residual"}, BadConfig, "has no residual"),
        ({"encoder": "dinov2-tiny", "latents": "all"}, BadConfig, "latents='all' is not one of"),
        ({"encoder": "dinov2-tiny", "init_cfg": {"type": "Pretrained", "checkpoint": "x.pth"}}, BadConfig, "takes no init_cfg"),
        ({"run": "runs/nothing"}, BadInput, "is no finished run"),
    ],
)
def test_what_a_backbone_cannot_be_is_said(arguments, error, words):
    with pytest.raises(error, match=words):
        SvgbenchBackbone(**arguments)


def recipe(root, work, backbone, channels) -> Config:
    """A config in mmsegmentation's own words: a 1x1 head on a frozen backbone, a folder as ADE20K lies on disk, four iterations."""
    load = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "reduce_zero_label": True}]
    train = [*load, {"type": "RandomCrop", "crop_size": (SIDE, SIDE)}, {"type": "RandomFlip", "prob": 0.5}, {"type": "PackSegInputs"}]

    def loader(split, pipeline, batch, sampler):
        data = {
            "type": "ADE20KDataset", "data_root": str(root), "pipeline": pipeline,
            "data_prefix": {"img_path": f"images/{split}", "seg_map_path": f"annotations/{split}"},
        }  # fmt: skip
        return {"batch_size": batch, "num_workers": 0, "sampler": sampler, "dataset": data}

    return Config(
        {
            "default_scope": "mmseg",
            "custom_imports": {"imports": ["svgbench.mmseg"]},
            "work_dir": str(work),
            "model": {
                "type": "EncoderDecoder",
                "data_preprocessor": {
                    "type": "SegDataPreProcessor", "mean": MEAN, "std": STD, "bgr_to_rgb": True, "size": (SIDE, SIDE), "seg_pad_val": 255
                },
                "backbone": {"type": "SvgbenchBackbone", **backbone},
                "decode_head": {
                    "type": "FCNHead", "num_convs": 0, "concat_input": False, "in_channels": channels, "channels": channels, "in_index": 0,
                    "num_classes": 150, "loss_decode": {"type": "CrossEntropyLoss"},
                },
                "test_cfg": {"mode": "slide", "crop_size": (SIDE, SIDE), "stride": (21, 21)},
            },
            "train_dataloader": loader("training", train, 2, {"type": "InfiniteSampler", "shuffle": True}),
            "val_dataloader": loader("validation", [*load, {"type": "PackSegInputs"}], 1, {"type": "DefaultSampler", "shuffle": False}),
            "val_evaluator": {"type": "IoUMetric", "iou_metrics": ["mIoU"]},
            "optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "AdamW", "lr": 0.01}},
            "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 4, "val_interval": 4},
            "val_cfg": {"type": "ValLoop"},
            "default_hooks": {"checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 4}},
            "log_level": "ERROR",
            "experiment_name": f"svgbench-{work.name}",
        }
    )  # fmt: skip


def trained(config: Config) -> float:
    """mIoU after the config's training through mmengine's Runner."""
    register_all_modules(init_default_scope=True)
    runner = Runner.from_cfg(config)
    runner.train()
    return runner.message_hub.get_scalar("val/mIoU").current()


def test_a_config_with_an_encoder_trains_through_mmengines_runner(tmp_path):
    miou = trained(recipe(ade20k(tmp_path / "ade"), tmp_path / "encoder", {"encoder": "dinov2-tiny"}, 96))
    assert math.isfinite(miou) and 0 < miou < 100
    (checkpoint,) = (tmp_path / "encoder").glob("iter_*.pth")
    assert checkpoint.stat().st_size < 200_000  # the head alone


def test_a_config_with_a_run_s_tokenizer_trains_on_its_residual_too(tmp_path):
    (config,) = configs_of("smoke", "tiny", ["encoder.card=dinov2"], None).values()
    plan = make_plan({"run": config})
    nodes = {key: node for key, node in plan.nodes.items() if node.stage in ("images", "autoencoder")}
    outcome = Outcome()
    run_here(Plan(nodes, plan.runs), set(nodes), tmp_path / "runs", Bench(out=str(tmp_path / "runs"), device="cpu", threads=1), outcome)
    record(plan, plan.runs[0], tmp_path / "runs", outcome)
    place = str(tmp_path / "runs" / "run")
    features, residual, both = (SvgbenchBackbone(run=place, latents=name) for name in ("features", "residual", "both"))
    assert both.out_channels == features.out_channels + residual.out_channels and residual.out_channels == 8
    pixels = torch.rand(1, 3, 64, 32)  # not the size that the residual was trained at
    torch.testing.assert_close(torch.cat([features(pixels)[0], residual(pixels)[0]], dim=1), both(pixels)[0])
    assert 0 < trained(recipe(ade20k(tmp_path / "ade"), tmp_path / "work", {"run": place}, both.out_channels)) < 100
