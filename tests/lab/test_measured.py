"""``bench.json``: what was measured comes back, a damaged file is refused, two files are compared, and plans take their pace from it."""

from __future__ import annotations

import pytest

from svgbench.errors import BrokenArtifact
from svgbench.lab import measured
from svgbench.lab.forecast.speed import CORE, H200, SHARE, pace_of
from svgbench.lab.measured import BenchFile, BenchRow, bench_of_this_machine, ratios, read_bench, write_bench
from svgbench.machine.processor import free_memory, processor_name
from svgbench.tables.benchmarks import bench_tables, ratio_table


def row(name="update", seconds=0.5, **more):
    facts = {"stage": "diffusion", "name": name, "precision": "fp32", "batch": 10, "seconds": seconds, "repetitions": 9}
    facts |= {"low": 0.9 * seconds, "high": 1.1 * seconds, "relative": 10 * seconds, "images_per_second": 10 / seconds}
    facts |= {"flops_per_image": 1e9, "utilisation": 0.4, "share_of": "fp32, 1024 x 1024 x 1024", "peak_memory_bytes": 10**9}
    return BenchRow(**{**facts, "first_seconds": 2.0, "sets_pace": True, **more})


def made(*rows, device="cpu", name=None, **more):
    return BenchFile(**{
        "device": device, "device_name": name or processor_name(), "preset": "tiny", "encoder": "dinov3-tiny",
        "settings": {"minutes": 3.0}, "host": {"svgbench": "1"}, "finished": "2026-11-29T12:00:00+00:00", "seconds": 100.0,
        "complete": True, "rows": rows, **more,
    })  # fmt: skip


def test_what_was_measured_comes_back_and_a_changed_file_is_refused(tmp_path):
    content = made(row(), BenchRow(stage="samples", name="decode", said="out of memory"))
    path = write_bench(tmp_path, content)
    assert read_bench(path) == read_bench(tmp_path) == content
    path.write_text(path.read_text().replace("tiny", "huge", 1))
    with pytest.raises(BrokenArtifact, match=r"digest does not match.*svgbench bench"):
        read_bench(path)
    with pytest.raises(BrokenArtifact, match="does not exist; make it by 'svgbench bench'"):
        read_bench(tmp_path / "elsewhere.json")


def test_a_plan_takes_its_pace_from_the_file_of_this_machine(tmp_path):
    write_bench(tmp_path, made(row(), row("second", 1.0), row("third", 2.0), row("forward", 0.001, sets_pace=False)))
    pace = pace_of(0, tmp_path / "store")
    assert pace.rates["fp32"] == pytest.approx(10e9)  # the median of 20, 10 and 5 GFLOP/s
    assert pace.rates["bf16"] == CORE["bf16"] * (pace.rates["bf16"] / CORE["bf16"])
    assert pace.source.startswith("measured by svgbench bench on 2026-11-29 (preset tiny, fp32); assumed: ")
    assert "in fp32" not in pace.source


def test_another_machine_s_file_is_not_used_and_said_to_be(tmp_path, monkeypatch):
    write_bench(tmp_path, made(row(), name="another processor"))
    pace = pace_of(0, tmp_path / "store")
    assert pace.source.startswith("assumed: ")
    assert f"bench.json was measured on another processor and is not used here ({processor_name()})" in pace.source
    write_bench(tmp_path, made(row(precision="bf16"), device="cuda", name="NVIDIA H200"))
    monkeypatch.setattr(measured, "gpus", lambda: [])
    assert "was measured on NVIDIA H200 and is not used here (no GPU)" in pace_of(8, tmp_path / "store").source
    monkeypatch.setattr(measured, "gpus", lambda: ["NVIDIA H200"] * 8)
    pace = pace_of(8, tmp_path / "store")
    assert pace.rates == {"bf16": pytest.approx(20e9), "fp32": SHARE * H200["fp32"]}
    assert bench_of_this_machine(tmp_path, "cpu") == (None, f"{tmp_path}/bench.json was measured on NVIDIA H200 and is not used here "
                                                      f"({processor_name()})")  # fmt: skip


def test_a_damaged_file_does_not_stop_a_plan(tmp_path):
    (tmp_path / "bench.json").write_text("{")
    pace = pace_of(0, tmp_path / "store")
    assert pace.source.startswith("assumed: ") and "is damaged" in pace.source and pace.source.endswith("it is not used")


def test_two_files_are_compared_piece_by_piece():
    new, old = made(row(seconds=0.5), row("new", 1.0)), made(row(seconds=1.0), row("old", 1.0))
    (one,) = ratios(new, old)
    assert (one.name, one.ratio, one.relative) == ("update", 2.0, 2.0)
    assert one.low == pytest.approx(0.9 / 0.55) and one.high == pytest.approx(1.1 / 0.45)
    table = ratio_table([one], new, old)
    assert table.rows == [["diffusion", "update", "10, fp32", "2.000", "(1.64, 2.44)", "2.000", "-"]]
    assert "in one file alone: diffusion, new" in table.notes


def test_what_was_not_measured_is_named_below_the_table_with_its_reason():
    failed = BenchRow(stage="diffusion", name="update", precision="bf16", batch=256, said="out of memory")
    product = BenchRow(stage="products", name="matrix product, bf16", batch=1, seconds=1e-3, flops_per_image=7.9e11, images_per_second=1e3)
    machine, speed, memory = bench_tables(made(product, row(), failed))
    assert machine.rows == [["matrix product, bf16", "1 ms", "-", "790 TFLOP/s"]]
    assert speed.rows == [["diffusion", "update", "10, fp32", "500 ms", "10 %", "20", "40 %"]]
    assert "diffusion (update (256, bf16)): out of memory" in speed.notes
    assert memory.rows == [["diffusion", "update", "10, fp32", "1 GB", "2 s"]] and "idle share: not measured on a CPU." in memory.notes
    *_, memory = bench_tables(made(row(idle_share=0.02, cpu_seconds=0.1), row("eager"), device="cuda"))
    assert [line[-2:] for line in memory.rows] == [["2 %", "100 ms"], ["not measured", "-"]]


def test_free_memory_is_bytes_of_this_machine():
    assert 1e6 < (free_memory() or 0) < 1e14
