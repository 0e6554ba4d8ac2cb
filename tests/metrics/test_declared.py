"""Metrics are declared once: a new one needs its function and its declaration, and every table then knows it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from fake_runs import score, write

from svgbench.config.records import Score
from svgbench.errors import BadInput
from svgbench.metrics.declared import METRICS, Metric, names
from svgbench.metrics.protocol import ImageGroup, protocol
from svgbench.stages import graph
from svgbench.tables.collect import collect
from svgbench.tables.layouts import Column
from svgbench.tables.published import COLUMNS, published
from svgbench.tables.report import report


def brightness(count: int) -> Score:
    """Place 1 of a new metric: the function that computes its score."""
    name = protocol("brightness", images=ImageGroup(name="val", count=count, digest="a" * 64))
    return Score(metric="brightness", value=0.12345, count=count, protocol=name)


DECLARATION = Metric(
    name="brightness", title="Brightness", better="higher", group="reconstruction", stages=("reconstruction-scores",), digits=4,
    published=("mean_brightness",),
)  # fmt: skip
"""Place 2: its declaration."""


def test_a_metric_needs_its_function_and_its_declaration(tmp_path, monkeypatch):
    made = brightness(50)
    row = {**score("a", "brightness", made.value, made=made.protocol), "low": None, "high": None}
    write(tmp_path / "a", [row])
    file = tmp_path / "published.csv"
    file.write_text(",".join(COLUMNS) + "\nSVG,SVG,ImageNet-1K,256,,,,,,,mean_brightness,0.5,a paper\n")
    assert "Reconstruction" not in [table.title for table in report(collect(tmp_path))]
    with pytest.raises(BadInput, match="no metric named 'mean_brightness'"):
        published(file)

    monkeypatch.setitem(METRICS, "brightness", DECLARATION)
    table = next(table for table in report(collect(tmp_path)) if table.title == "Reconstruction")
    assert table.columns == ["run", "Brightness ↑ [1]"] and str(table.rows[0][1]) == "0.1235"  # title, better end and digits
    assert [one.metric for one in published(file)] == ["brightness"]
    assert not Column(title="B", metric="brightness").sampled


def test_every_declared_metric_names_stages_that_score_and_no_two_share_a_published_name():
    for metric in METRICS.values():
        assert all(graph.by_name(stage).scores for stage in metric.stages), metric.name
        assert metric.of_samples == any("generation" in stage for stage in metric.stages)
    listed = [name for metric in METRICS.values() for name in metric.published]
    assert len(listed) == len(set(listed))
    assert set(names("reconstruction")) | set(names("generation")) | set(names("perception")) | set(names("cost")) == set(METRICS)


def test_declarations_need_no_torch():
    code = "import sys, svgbench.metrics.declared; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
