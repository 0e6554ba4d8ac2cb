"""``audit``: its exit status, its formats, a table that fits 80 columns, and one sentence for what cannot be audited."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from audited import MadeRun, pictures
from commands import svgbench
from rich.console import Console

from svgbench.tables.audit.items import audit, audit_table
from svgbench.tables.audit.subjects import subject_of
from svgbench.tables.terminal import column_groups, draw


@pytest.fixture
def images(tmp_path):
    """A file that passes three items; rounding is told with a reference."""
    path = tmp_path / "a.npz"
    np.savez(path, arr_0=pictures(200).transpose(0, 2, 3, 1), arr_1=np.arange(200) % 10)
    return path


def test_nothing_fails_is_status_0_and_a_failure_is_status_1(images, tmp_path):
    words = ("audit", images, "--out", tmp_path, "--reference", images)
    done = svgbench(*words, "--extractor", "shapes-cnn")
    assert done.returncode == 0 and "4 items: 4 pass, 0 fail, 0 cannot tell" in done.stdout and not done.stderr
    done = svgbench(*words)
    assert done.returncode == 1 and "| **fail**" in done.stdout and "To do: draw more than 2,048 samples" in done.stdout and not done.stderr


def test_several_subjects_are_a_table_each_and_json_is_one_list(images, tmp_path):
    MadeRun(tmp_path, "mine").transformer()
    done = svgbench("audit", "mine", images, "mine", "--out", tmp_path)
    assert [line for line in done.stdout.splitlines() if line.startswith("###")] == ["### Audit of run mine", f"### Audit of {images}"]
    rows = json.loads(svgbench("audit", "mine", images, "--out", tmp_path, "--format", "json").stdout)
    assert [row["kind"] for row in rows] == ["run"] * 14 + ["set"] * 4
    assert set(rows[0]) == {"subject", "kind", "item", "title", "verdict", "evidence", "advice"}
    assert {row["verdict"] for row in rows} == {"pass", "fail", "cannot tell"}
    lines = list(csv.DictReader(io.StringIO(svgbench("audit", images, "--out", tmp_path, "--format", "csv").stdout)))
    assert {"column": "verdict", "text": "pass"}.items() <= lines[0].items() and lines[0]["run"] == "labels of samples"


def test_the_table_fits_80_columns_in_one_piece(tmp_path):
    one = MadeRun(tmp_path, "dinov3-tiny.limit-64.cc10f2", "diffusion.shift=2")
    one.transformer(images_seen=256, channels=768)
    subject = subject_of("dinov3-tiny.limit-64.cc10f2", tmp_path)
    table, stream = audit_table(subject, audit(subject)), io.StringIO()
    draw(table, Console(file=stream, width=80, force_terminal=False))
    assert max(map(len, stream.getvalue().splitlines())) <= 80
    assert len(column_groups(table, 80)) == 1 and "standardise and back" in stream.getvalue() and "cannot tell" in stream.getvalue()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nosuch"], "UnknownName: no run or file named 'nosuch'. Did you mean"),
        (["mine", "--reference", "x.npz"], "BadInput: --reference is for sets of images, and none is given; leave it out."),
        (["mine", "--extractor", "incepton"], "UnknownName: no extractor named 'incepton'. Did you mean 'inception'"),
        (["broken.npz"], "BadData: broken.npz: is neither a folder nor an .npz"),
    ],
)
def test_what_cannot_be_audited_is_one_sentence(tmp_path, monkeypatch, words, sentence):
    MadeRun(tmp_path, "mine")
    MadeRun(tmp_path, "nosuchrun")
    (tmp_path / "broken.npz").write_bytes(b"no zip")
    monkeypatch.chdir(tmp_path)
    done = svgbench("audit", *words, "--out", tmp_path)
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.splitlines()) == 1 and not done.stdout
