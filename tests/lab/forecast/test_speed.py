"""How fast a machine is taken to be: assumed and said so, or as finished trainings measured it."""

from __future__ import annotations

import os

import pytest

from svgbench.config.records import Manifest, key_of
from svgbench.lab.forecast.estimate import Estimate
from svgbench.lab.forecast.speed import CORE, H200, SHARE, pace_of
from svgbench.tables.planned import duration, operations, size, totals


def training(store, name, *, device="cpu", rate=1e9, precision="fp32", ranks=1, seconds=60.0):
    """A finished training that reached ``rate`` FLOP/s on each of its processes."""
    place = store / "diffusion" / name
    place.mkdir(parents=True)
    slice_ = {"diffusion": {"training": {"precision": precision}}}
    manifest = Manifest(
        stage="diffusion", version=1, key=key_of("diffusion", 1, slice_, {}), slice=slice_, inputs={}, files={}, sizes={},
        seconds=seconds, cost={"flops_per_image": 1e6, "images_per_second": ranks * rate / 1e6}, host={"device": device, "ranks": ranks},
        finished="",
    )  # fmt: skip
    (place / "manifest.json").write_bytes(manifest.written())


def test_without_a_store_the_pace_is_assumed_and_says_so(tmp_path):
    gpus, processor = pace_of(8), pace_of(0, tmp_path / "absent")
    assert gpus.rates == {name: SHARE * rate for name, rate in H200.items()} and gpus.unit == "GPU-hours"
    assert gpus.source == "assumed: 8 x H200 at 40% of 790 TFLOP/s in bf16 and 60 TFLOP/s in fp32"
    assert processor.rates["fp32"] == CORE["fp32"] * os.cpu_count() and processor.unit == "CPU-hours"


def test_finished_trainings_on_the_same_kind_of_device_set_the_pace_of_their_precision(tmp_path):
    for number, rate in enumerate((1e9, 2e9, 30e9)):
        training(tmp_path, f"cpu{number}", rate=rate)
    training(tmp_path, "smoke", rate=1e6, seconds=1.5)  # mostly starting up
    training(tmp_path, "gpus", device="cuda", rate=5e12, precision="bf16", ranks=4)
    training(tmp_path, "changed", rate=7e9)
    changed = tmp_path / "diffusion" / "changed" / "manifest.json"
    changed.write_text(changed.read_text().replace("7000.0", "9000.0"))
    (tmp_path / "images" / "broken").mkdir(parents=True)
    (tmp_path / "images" / "broken" / "manifest.json").write_text("{")
    processor, gpu = pace_of(0, tmp_path), pace_of(1, tmp_path)
    assert processor.rates["fp32"] == 2e9 and "3 in fp32" in processor.source
    assert "median of the longer finished trainings" in processor.source
    assert gpu.rates["bf16"] == pytest.approx(5e12) and gpu.rates["fp32"] == SHARE * H200["fp32"]
    assert "1 in bf16" in gpu.source and "assumed" in gpu.source


def test_processes_share_a_training_and_not_a_score():
    pace, work = pace_of(8), Estimate(bf16=SHARE * H200["bf16"] * 800)
    assert pace.seconds(work, "diffusion") == pytest.approx(100)
    assert pace.seconds(work, "overview") == pytest.approx(800)
    assert pace.seconds(Estimate(core_seconds=60), "images") == 60 and pace.device_seconds(work) == pytest.approx(800)


def test_totals_add_time_and_disk_and_take_the_largest_of_what_passes():
    pace = pace_of(1)
    found = totals([("diffusion", Estimate(kept=10, passing=7)), ("autoencoder", Estimate(core_seconds=90, kept=2000, passing=5))], pace)
    assert found[0] == "planned: 1.5 min one after the other, 0 GPU-hours, 2.01 kB of disk, 7 B more while a training keeps checkpoints."


def test_figures_read_as_people_write_them():
    assert [duration(x) for x in (0.04, 59.9, 61, 3599, 36e4, 324e5)] == ["0.0 s", "59.9 s", "1.0 min", "60.0 min", "100.0 h", "9,000.0 h"]
    assert [size(x) for x in (8, 999.6, 196_608, 2.6e11, 3e15)] == ["8 B", "1 kB", "197 kB", "260 GB", "3e+03 TB"]
    assert [operations(x) for x in (5e8, 966e9, 4.95e19)] == ["0.5 GFLOP", "966 GFLOP", "49.5 EFLOP"]
