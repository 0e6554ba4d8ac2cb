"""``svgbench bench`` on a CPU: each piece at the preset tiny does its stage's work; the command writes its file, and plans use it."""

from __future__ import annotations

import json

import pytest
import torch

from svgbench.bench.measurement import measure
from svgbench.bench.pieces import STAGES, BenchSheet
from svgbench.bench.subject import Subject
from svgbench.cli.main import main
from svgbench.config.build import build
from svgbench.lab.forecast.sizes import counts_of, sizes_of
from svgbench.lab.measured import read_bench
from svgbench.machine.measure import count_work
from svgbench.machine.runtime import Runtime
from svgbench.machine.signals import Stop
from svgbench.nets.chunks import whole_batches

torch.set_num_threads(1)
RUNTIME = Runtime(device="cpu", quiet=True)


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    config = build({}, preset="tiny")
    return Subject(config, sizes_of(config, counts_of(config)), RUNTIME, tmp_path_factory.mktemp("bench"), most=8)


def test_every_piece_of_a_run_does_the_work_that_it_is_said_to_do(subject):
    """Each call is made once and its operations are counted; kept latents and the judge's resizing cost none."""
    sheet = BenchSheet(subject, ("images", "encoding", "autoencoder", "diffusion", "samples"), batch=2)
    seen = set()
    for bout in sheet.bouts():
        for piece in bout.prepare():
            with whole_batches():
                counted = count_work(piece.call, 1)
            online = 2 * subject.sizes.encoding if "online" in piece.name else 0
            assert counted.model + counted.apart == pytest.approx((piece.flops or 0) + online, rel=0.02), piece.name
            seen.add((bout.stage, piece.name))
    assert seen == {
        ("images", "read from the packed store"), ("encoding", "encode images"),
        ("autoencoder", "forward: encode and decode"), ("autoencoder", "update"),
        ("diffusion", "forward"), ("diffusion", "update"), ("diffusion", "update, encoding online"),
        ("samples", "one guided evaluation"), ("samples", "samples, 25 steps, guidance 2"), ("samples", "decode"),
    }  # fmt: skip


def test_the_machine_s_and_the_judges_pieces_run(subject):
    found = {bout.stage: bout for bout in BenchSheet(subject, ("copies", "scores"), batch=2).bouts()}
    for piece in [*found["copies"].prepare(), *BenchSheet(subject, ("scores",), batch=2).bouts()[0].prepare()]:
        piece.call()
    assert found["scores"].names == ("eigvalsh, 2048 x 2048, fp64", "Frechet distance, 2048 features")


def test_an_update_trains(subject):
    task = subject.diffusion()
    before = task.modules["sit"].final.weight.clone()
    assert subject.update(task, 4)() == 4
    assert not torch.equal(task.modules["sit"].final.weight, before)
    assert list(subject.place.glob("log.jsonl")) == []


def test_the_batch_is_the_preset_s_on_a_cpu_unless_given(subject):
    assert [BenchSheet(subject, STAGES).of(stage) for stage in ("autoencoder", "diffusion")] == [32, 64]
    assert BenchSheet(subject, STAGES, batch=3).of("diffusion") == 3


def test_inception_is_measured_with_random_weights(tmp_path):
    config = build({"scores": {"extractor": "inception"}}, preset="tiny")
    made = Subject(config, sizes_of(config, counts_of(config)), RUNTIME, tmp_path, most=8).extractor()
    assert made.dim == 2048 and made.digest == "random" and made.tap is not None


def test_the_command_writes_what_it_measured_and_a_plan_takes_its_pace(tmp_path, capsys):
    words = ["bench", "--preset", "tiny", "--minutes", "0.2", "--batch", "2", "--device", "cpu", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--stage", "images", "--stage", "diffusion", "--format", "json"])
    assert not ended.value.code
    printed = json.loads(capsys.readouterr().out)
    made = read_bench(tmp_path)
    assert printed["rows"] == made.model_dump(mode="json")["rows"] and made.complete and made.preset == "tiny"
    assert {row.stage for row in made.rows} == {"images", "diffusion"} and made.host["torch"] == torch.__version__
    timed = [row for row in made.rows if row.sets_pace and row.seconds]
    assert timed or all(row.said for row in made.rows if row.stage == "diffusion")  # a busy machine may reach the first call only
    with pytest.raises(SystemExit):
        main(["doctor", "--preset", "tiny", "--out", str(tmp_path)])
    assert (f"pace measured by svgbench bench on {made.date}" in capsys.readouterr().out) == bool(timed)
    with pytest.raises(SystemExit):
        main(["bench", "--out", str(tmp_path), "--against", str(tmp_path / "bench.json"), "--format", "json"])
    assert all(one["ratio"] == 1 for one in json.loads(capsys.readouterr().out))


def test_an_unknown_stage_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--stage", "difusion", "--out", str(tmp_path)])
    assert "Did you mean 'diffusion'" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_signal_ends_it_with_what_was_measured(monkeypatch):
    config = build({}, preset="tiny")
    monkeypatch.setattr(Stop, "__enter__", lambda self: setattr(self, "received", 2) or self)
    made, signal = measure(config, sizes_of(config, counts_of(config)), RUNTIME, stages=("copies",), batch=None, minutes=0.1)
    assert signal == "Ctrl-C" and not made.complete and made.rows == ()
