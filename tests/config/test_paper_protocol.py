"""``scores.protocol``: whose heads measure perception; which stages a run then has, and what its keys depend on."""

from __future__ import annotations

import pytest
from scenes import ade20k, nyu

from svgbench.config.build import build
from svgbench.config.parse import override
from svgbench.config.records import canonical
from svgbench.errors import BadConfig
from svgbench.lab.plan import nodes_of, resolve
from svgbench.metrics.declared import METRICS
from svgbench.stages import graph


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[str, str]:
    place = tmp_path_factory.mktemp("dense")
    return f"scores.segmentation.source={ade20k(place / 'ade')}", f"scores.depth.source={nyu(place / 'nyu')}"


def keys(*words: str) -> dict[str, str]:
    return {node.stage: node.key for node in nodes_of(resolve(build(override(list(words)), preset="tiny")))}


LINEAR = {"pooled-latents", "probe-scores", "dense-segmentation-scores", "depth-scores"}
PAPER = {"paper-probe-scores", "paper-segmentation-scores", "paper-depth-scores"}


def test_a_run_has_the_heads_of_one_protocol_and_shares_all_else(folders):
    linear, paper = keys(*folders), keys(*folders, "scores.protocol=paper")
    assert linear.keys() - paper.keys() == LINEAR and paper.keys() - linear.keys() == PAPER
    assert all(linear[stage] == paper[stage] for stage in linear.keys() & paper.keys())
    own = keys("scores.protocol=paper")
    assert own.keys() & (LINEAR | PAPER) == {"paper-probe-scores"} and "segmentation-scores" in own  # shapes keep their own masks' head


def test_the_settings_of_the_other_protocol_are_in_no_file_and_no_key(folders):
    assert keys(*folders) == keys(*folders, "scores.paper.linear.epochs=3", "scores.paper.fpn.width=8", "scores.paper.deconv.width=8")
    plain = build({}, preset="tiny").model_dump(mode="json")
    assert not {"protocol", "paper"} & plain["scores"].keys()
    assert canonical(plain) == canonical(build(override(["scores.paper.linear.batch=7"]), preset="tiny").model_dump(mode="json"))
    chosen = (*folders, "scores.protocol=paper")
    assert keys(*chosen) == keys(*chosen, "scores.segmentation.head.lr=1", "scores.depth.head.bins=8", "scores.probe.epochs=1")


@pytest.mark.parametrize(
    ("word", "stage"),
    [
        ("scores.paper.linear.epochs=3", "paper-probe-scores"),
        ("scores.paper.fpn.dropout=0.2", "paper-segmentation-scores"),
        ("scores.paper.deconv.filters=[8]", "paper-depth-scores"),
    ],
)
def test_a_setting_reaches_its_own_stage_alone(folders, word, stage):
    one, other = (keys(*folders, "scores.protocol=paper", *words) for words in ((), (word,)))
    assert {name for name in one if one[name] != other[name]} == {stage}


def test_facts_of_the_data_reach_both_protocols(folders):
    for word, stages in (("scores.segmentation.head.classes=9", ("masks", "segmentation")), ("scores.depth.head.border=none", ("depth",))):
        one, other = (keys(*folders, "scores.protocol=paper", *words) for words in ((), (word,)))
        changed = {name for name in one if one[name] != other[name]}
        assert all(any(part in name for name in changed) for part in stages), (word, changed)


def test_counts_of_images_are_the_printed_numbers_of_updates():
    """arXiv 2510.15301v4, appendix B; each field with its source is in facts/preset-paper.csv."""
    fpn = build(override(["scores.protocol=paper"]), preset="paper").scores.paper.fpn
    assert (fpn.total_images / fpn.batch, fpn.lr_warmup_images / fpn.batch) == (8000, 1500)


def test_the_preset_paper_measures_by_the_papers_heads():
    assert build({}, preset="paper").scores.protocol == "paper"
    assert all(build({}, preset=preset).scores.protocol == "dinov3" for preset in ("tiny", "small"))


def test_every_stage_of_the_paper_is_one_of_a_metric():
    declared = {stage for metric in METRICS.values() for stage in metric.stages}
    assert declared >= PAPER and {stage.name for stage in graph.STAGES if stage.scores} >= PAPER


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("scores.protocol=ours", "scores.protocol"),
        ("scores.paper.linear.area=[0.5, 0.1]", "area .* must be in ascending order"),
        ("scores.paper.linear.area=[0.5, 1.5]", "must be in ascending order and at most 1"),
        ("scores.paper.fpn.window_stride=600", "window_stride 600 leaves gaps between windows of crop 512"),
        ("scores.paper.fpn.resize=[2.0, 0.5]", "resize .* must be in ascending order"),
        ("scores.paper.fpn={crop: 30, window_stride: 20}", "scores.paper.fpn.crop 30 cannot be divided .* use 16 or 32"),
        ("scores.paper.deconv.window_stride=500", "leaves gaps between windows of crop 480"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_with_their_field(word, sentence):
    with pytest.raises(BadConfig, match=sentence):
        build(override(["scores.protocol=paper", "scores.segmentation.source=ade", word]), preset="paper")
